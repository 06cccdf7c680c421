"""One season from label file to finished dataset. Read ``convert_season`` and ``_convert``."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from serengeti_etl.ahead import in_order
from serengeti_etl.cluster import Outcome, Runner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.editions import plan_datasets
from serengeti_etl.convert.leftovers import remove_leftovers
from serengeti_etl.convert.plan import Plan, PlannedShard
from serengeti_etl.convert.plan_files import write_locations
from serengeti_etl.convert.planned import PlannedDataset, source_of
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.convert.shard import (
    LOCATIONS_FILE,
    ShardOutput,
    ShardReport,
    ShardTask,
    TaskReport,
    make_shard,
)
from serengeti_etl.convert.tally import OnProgress, Tally
from serengeti_etl.dataset.index import (
    UNREADABLE,
    DatasetIndex,
    ShardInfo,
    compact_index,
    index_part_name,
    parse_rejects,
    read_report,
    rejects_name,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.dataset.rejects import read_rejects, read_rejects_of
from serengeti_etl.dataset.sums import seal
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.lease import Lease, hold
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What a conversion made.

    Attributes:
        index: the contents of dataset.json.
        ledger: what became of every image.
        num_made: shards made by this run; the others were there already.
        num_source_bytes: bytes of photographs read by this run, for all its sizes together.
        seconds: wall time per stage, summed over this run's tasks, likewise for all its sizes.
        added: shards that a dataset got which was finished before; () where there was none.
        num_retried: photographs in them that had been rejected before.
        num_recovered: of these, those that are in a shard now.
    """

    index: DatasetIndex
    ledger: Ledger
    num_made: int
    num_source_bytes: int
    seconds: Mapping[str, float]
    added: tuple[ShardInfo, ...] = ()
    num_retried: int = 0
    num_recovered: int = 0


def convert_season(  # noqa: PLR0913 - the public signature
    pipeline: SeasonPipeline,
    runner: Runner,
    output: str,
    on_progress: OnProgress | None = None,
    *,
    retry_rejects: bool = False,
    on_held: Callable[[], object] = lambda: None,
) -> Conversion:
    """The finished dataset of ``pipeline`` at ``output``.

    Killed at any moment and called again, it goes on with the shards that are not committed yet,
    and every byte is that of an undisturbed run. A catalog that has grown adds shards; those that
    are there stay as they are.

    Args:
        pipeline: what to convert, of one size.
        runner: where tasks run.
        output: folder or bucket prefix for the dataset.
        on_progress: called with each finished shard.
        retry_rejects: try what was rejected again, in shards of its own; where work is unfinished,
            that is finished instead.
        on_held: called once nobody else writes to ``output``.

    Raises:
        ConfigError: ``output`` holds another plan, or a setting is impossible.
        CatalogError: the label file contradicts itself, or an archive of photographs is damaged.
        OutputHeld: another process writes to ``output``.
        SourceRefused: the store of the photographs refuses one after the other.
        Incomplete: some shards failed for reasons that may pass; call again.
        TooManyFailures: more rejects than ``pipeline`` allows.
    """
    if pipeline.sizes:
        raise ConfigError(
            f"the pipeline has the sizes {', '.join(pipeline.sizes)}: call convert_sizes, or give "
            "one of them to its of_size"
        )
    with _held(output) as (store, lease):
        on_held()
        datasets = plan_datasets(pipeline, store, retry_rejects=retry_rejects)
        return _convert(datasets, runner, lease, on_progress)[""]


def convert_sizes(  # noqa: PLR0913 - the public signature
    pipeline: SeasonPipeline,
    runner: Runner,
    output: str,
    on_progress: OnProgress | None = None,
    *,
    retry_rejects: bool = False,
    on_held: Callable[[], object] = lambda: None,
) -> Mapping[str, Conversion]:
    """The finished datasets of ``pipeline.sizes`` by size, each in its folder below ``output``.

    Photographs are read and decoded once for all sizes. Each dataset is byte for byte what
    ``convert_season`` makes of ``pipeline.of_size(size)``. Killed at any moment and called again,
    it goes on with the shards that are not committed yet, at the sizes that lack them.

    Args:
        pipeline: what to convert, of several sizes.
        runner: where tasks run.
        output: folder or bucket prefix for the folders of the datasets.
        on_progress: called with each shard that is finished at every size.
        retry_rejects: as of ``convert_season``, what was rejected at every size.
        on_held: likewise.

    Raises:
        ConfigError: ``pipeline`` has no ``sizes``, or as ``convert_season``, which raises the
            others too.
    """
    if not pipeline.sizes:
        raise ConfigError("the pipeline has no sizes: set them, or call convert_season")
    with _held(output) as (store, lease):
        on_held()
        datasets = plan_datasets(pipeline, store, retry_rejects=retry_rejects)
        return _convert(datasets, runner, lease, on_progress)


@contextlib.contextmanager
def _held(output: str) -> Iterator[tuple[Store, Lease]]:
    """The place of the datasets, as long as nobody else writes there."""
    store = Store(url=output)
    with hold(store) as lease:
        store.remove_partial()
        yield store, lease


def _convert(
    datasets: Sequence[PlannedDataset],
    runner: Runner,
    lease: Lease,
    on_progress: OnProgress | None,
) -> dict[str, Conversion]:
    """The finished datasets by their folder below the output."""
    tally = make_missing(datasets, runner, lease, on_progress)
    conversions = {
        dataset.folder: finish(dataset, tally) for dataset in datasets if tally.of(dataset).is_whole
    }
    _leave_in_order([one for one in datasets if one.folder not in conversions], tally)
    tally.check_whole()
    return conversions


def make_missing(
    datasets: Sequence[PlannedDataset],
    runner: Runner,
    lease: Lease,
    on_progress: OnProgress | None,
) -> Tally:
    """What is there once every shard without a commit record was made, or has failed.

    Args:
        datasets: of the same shards, with their plans on storage.
        runner: where tasks run.
        lease: on the place of the datasets.
        on_progress: called with each shard that is finished at every size.

    Raises:
        OutputHeld: another process has taken the place over.
    """
    tally = Tally(datasets, on_progress)
    todo = _todo(datasets, tally)
    if todo:
        # What tasks read lies with a dataset that lacks shards: a finished one is left alone.
        home = todo[0].datasets[0]
        if home.pipeline.archives:
            write_locations(home)
        outcomes = runner.map(make_shard, _tasks(todo, home, runner.num_threads))
        tally.add_all(_while_held(outcomes, lease))
    return tally


def _leave_in_order(unfinished: Sequence[PlannedDataset], tally: Tally) -> None:
    """Remove what the failed tasks of datasets left behind, if that can be done."""
    for dataset in unfinished:
        # A store that is away is no news here: it is why tasks failed.
        with contextlib.suppress(OSError):
            remove_leftovers(dataset.store, dataset.plan, tally.of(dataset).infos)


def _while_held(
    outcomes: Iterator[Outcome[ShardTask, TaskReport]], lease: Lease
) -> Iterator[Outcome[ShardTask, TaskReport]]:
    """The same, as long as nobody else has taken the output over."""
    for outcome in outcomes:
        lease.check()
        yield outcome
    lease.check()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Todo:
    """A shard that is not there at every size.

    Attributes:
        shard: of any of the plans.
        datasets: those that lack it.
    """

    shard: PlannedShard
    datasets: tuple[PlannedDataset, ...]


def _todo(datasets: Sequence[PlannedDataset], tally: Tally) -> list[_Todo]:
    """The shards to make; those that are there enter the tally."""
    committed = [_committed(dataset.store, dataset.plan) for dataset in datasets]
    todo = []
    for shard in datasets[0].plan.shards:
        found = list(zip(datasets, (reports.get(shard.name) for reports in committed), strict=True))
        tally.add_known([(dataset, report) for dataset, report in found if report is not None])
        lacking = tuple(dataset for dataset, report in found if report is None)
        if lacking:
            todo.append(_Todo(shard=shard, datasets=lacking))
    return todo


def _committed(store: Store, plan: Plan) -> dict[str, ShardReport]:
    """The shards of this plan that an earlier run finished, by name."""
    names = set(store.list("index"))
    there = [shard for shard in plan.shards if index_part_name(shard.name) in names]
    # Thousands of shards in a bucket: one after the other they would take minutes.
    reports = in_order(partial(_report_of, store), there)
    return {report.info.name: report for report in reports if report is not None}


def _report_of(store: Store, shard: PlannedShard) -> ShardReport | None:
    """What came of a shard; None if it is not there whole, as this plan wants it."""
    info = read_report(store, shard.name)
    if info is None or info.fingerprint != shard.fingerprint or info.name != shard.name:
        return None
    return _known_report(store, info) if _has_tar(store, info) else None


def _has_tar(store: Store, info: ShardInfo) -> bool:
    try:
        return store.num_bytes(info.tar_name) == info.num_bytes
    except FileNotFoundError:
        return False


def _known_report(store: Store, info: ShardInfo) -> ShardReport | None:
    """What came of a committed shard; None if its rejects are lost, so that it is made again."""
    if not info.num_rejected:
        return ShardReport(info=info)
    try:
        content = store.read(rejects_name(info.name))
    except FileNotFoundError:
        return None
    try:
        rejects = parse_rejects(content, info.name).to_pylist()
    except UNREADABLE:
        return None
    return ShardReport(
        info=info,
        rejects_by_reason=Counter(row["reason"] for row in rejects),
        examples=tuple(f"{row['file_name']}: {row['message']}" for row in rejects[:3]),
    )


def _tasks(
    todo: Sequence[_Todo], home: PlannedDataset, num_threads: int | None
) -> Iterator[ShardTask]:
    source, encoder = source_of(home.pipeline), encoder_version()
    is_archived = bool(home.pipeline.archives)
    retried = set(home.plan.retried["shard"].to_pylist())
    for one in todo:
        yield ShardTask(
            name=one.shard.name,
            split=one.shard.split,
            row_group=one.shard.row_group,
            plan=home.store,
            outputs=tuple(_output(dataset, one.shard.row_group) for dataset in one.datasets),
            images=source if is_archived else source.at(home.pipeline.images_folder),
            is_archived=is_archived,
            encoder=encoder,
            num_threads=num_threads,
            # Of photographs that were rejected before, it is no wonder if most are again.
            max_reject_share=1.0 if one.shard.is_retry else home.pipeline.max_shard_reject_share,
            is_retried=one.shard.name in retried,
        )


def _output(dataset: PlannedDataset, row_group: int) -> ShardOutput:
    return ShardOutput(
        store=dataset.store,
        resize=dataset.pipeline.resize,
        fingerprint=dataset.plan.shards[row_group].fingerprint,
    )


def finish(dataset: PlannedDataset, tally: Tally) -> Conversion:
    """Compact the index, balance the ledger, write the checksums and dataset.json."""
    store, plan, made = dataset.store, dataset.plan, tally.of(dataset)
    # Which archive a photograph came from is no part of the dataset: a folder gives the same.
    store.delete(LOCATIONS_FILE)
    remove_leftovers(store, plan, made.infos)
    infos = tuple(made.infos[shard.name] for shard in plan.shards)
    compact_index(store, infos)
    ledger = count_ledger(dataset, infos)
    ledger.check()
    index = DatasetIndex(
        name=dataset.pipeline.name,
        classes=plan.classes,
        shards=infos,
        ledger=ledger.as_dict(),
        settings=dataset.pipeline.deciding_settings(),
        versions={"encoder": encoder_version()},
        plan_hash=plan.plan_hash,
        priors=plan.priors,
        editions=plan.editions,
    )
    added = _added(dataset, infos)
    seal(store, index, made.made)
    store.remove_partial()
    is_retry = {shard.name: shard.is_retry for shard in plan.shards}
    retries = [info for info in added if is_retry[info.name]]
    return Conversion(
        index=index,
        ledger=ledger,
        num_made=len(made.made),
        num_source_bytes=tally.num_source_bytes,
        seconds=dict(tally.seconds),
        added=added,
        num_retried=sum(info.num_samples + info.num_rejected for info in retries),
        num_recovered=sum(info.num_samples for info in retries),
    )


def _added(dataset: PlannedDataset, infos: Iterable[ShardInfo]) -> tuple[ShardInfo, ...]:
    """The shards that dataset.json has not yet; () without one."""
    try:
        known = {shard.name for shard in DatasetIndex.read(dataset.store).shards}
    except DatasetError:
        return ()
    return tuple(info for info in infos if info.name not in known)


def count_ledger(dataset: PlannedDataset, infos: Iterable[ShardInfo]) -> Ledger:
    """The ledger as the files on storage have it.

    Raises:
        DatasetError: a file of rejects is damaged, or one that a shard's report names not there.
    """
    store, infos = dataset.store, tuple(infos)
    try:
        rejects = [
            read_rejects_of(store, "plan"),
            read_rejects(store, infos, dataset.plan.editions),
        ]
    except FileNotFoundError as error:
        raise DatasetError(f"rejects are missing: {error}; run `serengeti-etl verify`") from error
    return Ledger.count(dataset.num_images, sum(info.num_samples for info in infos), rejects)
