"""One season from label file to finished dataset. Read ``convert_season`` first."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.catalog.read import Labels, read_labels
from serengeti_etl.catalog.selection import SPLITS_FILE, Selection, select_images, splits_json
from serengeti_etl.cluster import Outcome, Runner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.archives import list_members, match_members
from serengeti_etl.convert.plan import Plan, PlannedShard, make_plan
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.convert.shard import (
    LOCATIONS_FILE,
    PLAN_FILE,
    ShardReport,
    ShardTask,
    make_shard,
)
from serengeti_etl.dataset.index import (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    DatasetIndex,
    ShardInfo,
    compact_index,
    read_report,
    read_table,
    rejects_name,
    write_table,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.errors import (
    CatalogError,
    ConfigError,
    DatasetError,
    Incomplete,
    TooManyFailures,
)
from serengeti_etl.storage import Store

PLAN_SETTINGS_FILE = "plan/plan.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversion:
    """What a conversion made.

    Attributes:
        index: the contents of dataset.json.
        ledger: what became of every image.
        num_made: shards made by this run; the others were there already.
        num_source_bytes: bytes of photographs read by this run.
        seconds: wall time per stage, summed over this run's tasks.
    """

    index: DatasetIndex
    ledger: Ledger
    num_made: int
    num_source_bytes: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One more shard is there.

    Attributes:
        report: of that shard.
        is_new: False if an earlier run had made it.
        num_planned: images of the whole plan.
    """

    report: ShardReport
    is_new: bool
    num_planned: int


OnProgress = Callable[[Progress], None]


def convert_season(
    pipeline: SeasonPipeline, runner: Runner, output: str, on_progress: OnProgress | None = None
) -> Conversion:
    """The finished dataset of ``pipeline`` at ``output``.

    Killed at any moment and called again, it goes on with the shards that are not committed yet,
    and every byte is that of an undisturbed run.

    Args:
        pipeline: what to convert.
        runner: where tasks run.
        output: folder or bucket prefix for the dataset.
        on_progress: called with each finished shard.

    Raises:
        ConfigError: ``output`` holds another plan, or a setting is impossible.
        CatalogError: the label file contradicts itself, or an archive of photographs is damaged.
        SourceRefused: the store of the photographs refuses one after the other.
        Incomplete: some shards failed for reasons that may pass; call again.
        TooManyFailures: more rejects than ``pipeline.max_reject_share``.
    """
    store = Store(url=output)
    store.remove_partial()
    plan, num_images = _plan_on_storage(store, pipeline)
    tally = _Tally(plan, pipeline, on_progress)
    committed = _committed(store, plan)
    for report in committed.values():
        tally.add(report, is_new=False)
    todo = [shard for shard in plan.shards if shard.name not in committed]
    if todo and pipeline.archives:
        _write_locations(store, plan, pipeline)
    outcomes = runner.map(make_shard, _tasks(todo, pipeline, store, runner.num_threads))
    tally.add_all(outcomes)
    tally.check_whole()
    # Which archive a photograph came from is no part of the dataset: a folder gives the same.
    store.delete(LOCATIONS_FILE)
    conversion = _finish(store, plan, num_images, (pipeline, tally))
    store.remove_partial()
    return conversion


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSeason:
    """Everything that is decided before the first photograph is read.

    Attributes:
        labels: the label file, read.
        selection: which of its images go on.
        plan: into which shards.
    """

    labels: Labels
    selection: Selection
    plan: Plan


def plan_season(pipeline: SeasonPipeline, scratch: Path) -> PlannedSeason:
    """What ``pipeline`` comes to; nothing but ``scratch`` is written. Raises as ``convert_season``.

    Args:
        pipeline: what to convert.
        scratch: empty local folder.
    """
    labels = read_labels(pipeline, scratch)
    selection = select_images(labels.images, pipeline)
    plan = make_plan(selection, pipeline, encoder_version())
    return PlannedSeason(labels=labels, selection=selection, plan=plan)


def _plan_on_storage(store: Store, pipeline: SeasonPipeline) -> tuple[Plan, int]:
    """The plan, after writing it, and the images of the catalog: the catalog itself is let go."""
    with TemporaryDirectory() as scratch:
        season = plan_season(pipeline, Path(scratch))
        _write_plan(store, season, pipeline)
    return season.plan, season.labels.images.num_rows


def _write_plan(store: Store, season: PlannedSeason, pipeline: SeasonPipeline) -> None:
    """Put catalog and plan on storage, plan.json last; refuse if another plan is there."""
    plan = season.plan
    record = {
        "plan_hash": plan.plan_hash,
        "encoder": encoder_version(),
        "settings": pipeline.deciding_settings(),
    }
    try:
        there = store.read_json(PLAN_SETTINGS_FILE)
    except FileNotFoundError:
        there = None
    if there is not None:
        if there["plan_hash"] != plan.plan_hash:
            raise ConfigError(_what_changed(there, record, store.url))
        return
    store.upload(season.labels.annotations_path, ANNOTATIONS_FILE)
    write_table(store, CATALOG_FILE, season.labels.images)
    store.write_json(SPLITS_FILE, splits_json(season.selection, pipeline))
    write_table(store, rejects_name("plan"), plan.excluded)
    _write_row_groups(store, PLAN_FILE, plan, plan.rows)
    store.write_json(PLAN_SETTINGS_FILE, record)


def _write_row_groups(store: Store, name: str, plan: Plan, rows: pa.Table) -> None:
    """Write a table that has a row for each of the plan, one row group per shard."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        for shard in plan.shards:
            writer.write_table(shard.part_of(rows), row_group_size=shard.num_images)
    store.write(name, sink.getbuffer())


def _write_locations(store: Store, plan: Plan, pipeline: SeasonPipeline) -> None:
    """Put on storage where in their archives the photographs of the plan lie.

    Raises:
        CatalogError: an archive is missing or damaged, or none has any of them.
    """
    members = list_members(_source(pipeline), pipeline.archives)
    locations = match_members(members, plan.rows["file_name"])
    if locations["archive"].null_count == locations.num_rows:
        raise CatalogError(
            f"none of the {locations.num_rows} photographs is in {', '.join(pipeline.archives)}: "
            f"the label file has names such as {plan.rows['file_name'][0]}, the archives such as "
            f"{members['name'][0] if members.num_rows else 'none'}"
        )
    _write_row_groups(store, LOCATIONS_FILE, plan, locations)


def _source(pipeline: SeasonPipeline) -> Store:
    return Store(url=pipeline.source, options=pipeline.storage_options)


def _what_changed(there: dict[str, Any], now: dict[str, Any], url: str) -> str:
    old, new = dict(_flat(there)), dict(_flat(now))
    names = sorted(old.keys() | new.keys())
    changes = [
        f"{name.removeprefix('settings.')} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name) and name != "plan_hash"
    ]
    reason = "; ".join(changes) or "the label file lists other images or labels"
    return (
        f"{url} already holds a conversion with another plan: {reason}. "
        "Give a new --output, or set it back as it was"
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry


def _committed(store: Store, plan: Plan) -> dict[str, ShardReport]:
    """The shards of this plan that an earlier run finished, by name."""
    names = set(store.list("index"))
    found = {}
    for shard in plan.shards:
        if f"index/{shard.name}.parquet" not in names:
            continue
        info = read_report(store, shard.name)
        if info is not None and info.fingerprint == shard.fingerprint and _has_tar(store, info):
            found[shard.name] = _known_report(store, info)
    return found


def _has_tar(store: Store, info: ShardInfo) -> bool:
    try:
        return store.num_bytes(info.tar_name) == info.num_bytes
    except FileNotFoundError:
        return False


def _known_report(store: Store, info: ShardInfo) -> ShardReport:
    if not info.num_rejected:
        return ShardReport(info=info)
    rejects = read_table(store, rejects_name(info.name)).to_pylist()
    return ShardReport(
        info=info,
        rejects_by_reason=Counter(row["reason"] for row in rejects),
        examples=tuple(f"{row['file_name']}: {row['message']}" for row in rejects[:3]),
    )


def _tasks(
    shards: Iterable[PlannedShard], pipeline: SeasonPipeline, store: Store, num_threads: int | None
) -> Iterator[ShardTask]:
    source = _source(pipeline)
    for shard in shards:
        yield ShardTask(
            name=shard.name,
            split=shard.split,
            row_group=shard.row_group,
            fingerprint=shard.fingerprint,
            output=store,
            images=source if pipeline.archives else source.at(pipeline.images_folder),
            is_archived=bool(pipeline.archives),
            resize=pipeline.resize,
            encoder=encoder_version(),
            num_threads=num_threads,
        )


class _Tally:
    """What has come in so far, and when it is too much of the wrong kind."""

    def __init__(
        self, plan: Plan, pipeline: SeasonPipeline, on_progress: OnProgress | None
    ) -> None:
        self.num_planned = plan.rows.num_rows
        self.max_rejects = pipeline.max_reject_share * self.num_planned
        self.on_progress = on_progress
        self.infos: dict[str, ShardInfo] = {}
        self.rejects: Counter[str] = Counter()
        self.examples: list[str] = []
        self.failures: dict[str, OSError] = {}
        self.num_made = 0
        self.num_source_bytes = 0
        self.seconds: Counter[str] = Counter()

    def add_all(self, outcomes: Iterator[Outcome[ShardTask, ShardReport]]) -> None:
        for outcome in outcomes:
            if outcome.result is not None:
                self.add(outcome.result, is_new=True)
            elif outcome.error is not None:
                self.failures[outcome.task.name] = outcome.error

    def add(self, report: ShardReport, *, is_new: bool) -> None:
        self.infos[report.info.name] = report.info
        self.rejects.update(report.rejects_by_reason)
        self.examples += report.examples
        self.num_made += is_new
        self.num_source_bytes += report.num_source_bytes
        self.seconds.update(report.seconds)
        if self.on_progress is not None:
            progress = Progress(report=report, is_new=is_new, num_planned=self.num_planned)
            self.on_progress(progress)
        if self.rejects.total() > self.max_rejects:
            raise TooManyFailures(
                f"{self.rejects.total()} of {self.num_planned} planned images were rejected "
                f"({dict(self.rejects)}), which is above max_reject_share; for example "
                f"{'; '.join(self.examples[:3])}. Mend the source, or raise max_reject_share in "
                "the pipeline file, and run the same command again: finished shards are kept"
            )

    def check_whole(self) -> None:
        if self.failures:
            name, error = min(self.failures.items())
            raise Incomplete(
                f"{len(self.failures)} shards failed, such as {name}: {error}. "
                "The others are finished; run the same command again"
            )


def _finish(
    store: Store, plan: Plan, num_images: int, run: tuple[SeasonPipeline, _Tally]
) -> Conversion:
    """Compact the index, balance the ledger, write dataset.json."""
    pipeline, tally = run
    infos = tuple(tally.infos[shard.name] for shard in plan.shards)
    compact_index(store, infos)
    ledger = count_ledger(store, num_images, infos)
    ledger.check()
    index = DatasetIndex(
        name=pipeline.name,
        classes=plan.classes,
        shards=infos,
        ledger=ledger.as_dict(),
        settings=pipeline.deciding_settings(),
        versions={"encoder": encoder_version()},
        plan_hash=plan.plan_hash,
        priors=plan.priors,
    )
    index.write(store)
    return Conversion(
        index=index,
        ledger=ledger,
        num_made=tally.num_made,
        num_source_bytes=tally.num_source_bytes,
        seconds=dict(tally.seconds),
    )


def count_ledger(store: Store, num_images: int, infos: Iterable[ShardInfo]) -> Ledger:
    """The ledger as the files on storage have it.

    Raises:
        DatasetError: a file of rejects that a shard's report names is not there.
    """
    infos = tuple(infos)
    names = ["plan", *(info.name for info in infos if info.num_rejected)]
    try:
        rejects = [read_table(store, rejects_name(name)) for name in names]
    except FileNotFoundError as error:
        raise DatasetError(f"rejects are missing: {error}; run `serengeti-etl verify`") from error
    return Ledger.count(num_images, sum(info.num_samples for info in infos), rejects)
