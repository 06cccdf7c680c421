"""Exactly what is damaged in a dataset, made again: every byte follows from pipeline and source.

Read ``repair_dataset`` first. What is damaged is told by checksums; where two witnesses disagree,
the file is made again, and the new bytes decide.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from serengeti_etl.catalog.read import read_labels
from serengeti_etl.cluster import Runner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.editions import earlier_of
from serengeti_etl.convert.plan import PlannedShard
from serengeti_etl.convert.plan_files import (
    PlanRecord,
    parse_record,
    record_of,
    record_of_plan,
    refuse_another_plan,
    write_plan,
)
from serengeti_etl.convert.planned import PlannedDataset, plan_labels
from serengeti_etl.convert.recover import beyond_recovery, recovered_editions
from serengeti_etl.convert.season import finish, make_missing
from serengeti_etl.dataset.editions import Edition
from serengeti_etl.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    PLAN_SETTINGS_FILE,
    Dataset,
    DatasetIndex,
    ShardInfo,
    index_part_name,
    read_report,
    rejects_name,
    tar_name,
)
from serengeti_etl.dataset.sums import (
    SUMS_FILE,
    plan_files,
    read_sums,
    sha256_of,
    shard_files,
)
from serengeti_etl.dataset.verify import Problem, VerifyTask, check_shard, verify_shards
from serengeti_etl.errors import ConfigError, DatasetError, Incomplete
from serengeti_etl.lease import hold
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Repair:
    """What was mended.

    Attributes:
        num_shards: shards that were examined: all of the dataset.
        shards: names of those that were made again.
        files: other files that were written again, by name.
        removed: files that belonged to no shard, by name.
        problems: what is still wrong, and not ours to mend: files of other names than ours.
    """

    num_shards: int
    shards: tuple[str, ...]
    files: tuple[str, ...]
    removed: tuple[str, ...]
    problems: tuple[Problem, ...]


OnExamined = Callable[[PlannedShard], None]


def repair_dataset(
    pipeline: SeasonPipeline,
    runner: Runner,
    output: str,
    on_examined: OnExamined | None = None,
) -> Repair:
    """What was mended of the dataset at ``output``, which then is byte for byte what it was.

    Killed at any moment and called again, it goes on. Whole shards are read and left as they are.
    An edition that is not finished is finished on the way.

    Args:
        pipeline: the one that made the dataset, of one size.
        runner: where shards are examined and made.
        output: folder or bucket prefix of the dataset.
        on_examined: called with each shard that has been examined.

    Raises:
        ConfigError: the pipeline makes another dataset; names the settings that differ.
        DatasetError: there is no dataset, or the source has changed, so that a shard made again
            differs from what it was; dataset.json then stays as it is.
        Incomplete: the store failed, or some shards did; call again.
        OutputHeld: another process writes there.
    """
    if pipeline.sizes:
        raise ConfigError(
            f"one size is repaired at a time: give --output with one of {', '.join(pipeline.sizes)}"
            " as its last part, or one of them to the pipeline's of_size"
        )
    store = Store(url=output)
    with hold(store) as lease:
        store.remove_partial()
        said = _Said.of(store)
        with TemporaryDirectory() as scratch:
            dataset, files = _mend_plan(pipeline, store, said, Path(scratch))
        damaged = set()
        for shard in _damaged(dataset, said, runner, on_examined):
            lease.check()
            store.delete(index_part_name(shard.name))  # it counts as not made any more
            damaged.add(shard.name)
        tally = make_missing([dataset], runner, lease, None)
        tally.check_whole()
        _refuse_other_bytes(
            dataset, said, {name: tally.of(dataset).infos[name] for name in damaged}
        )
        before = _digests(store)
        store.delete(SUMS_FILE)  # where it disagreed with a file, that file has been seen to
        finish(dataset, tally)
        files += [name for name, digest in _digests(store).items() if digest != before[name]]
        removed = _remove_strays(dataset)
    whole = Dataset(store)
    touched = [shard for shard in whole.info.shards if shard.name in damaged]
    return Repair(
        num_shards=len(whole.info.shards),
        shards=tuple(shard.name for shard in touched),
        files=tuple(files),
        removed=removed,
        problems=verify_shards(whole, touched, runner).problems,
    )


def pipeline_of(pipeline: SeasonPipeline, output: str) -> SeasonPipeline:
    """Of a pipeline with ``sizes``, the one of the size that ``output`` ends with; else itself."""
    size = output.rstrip("/").rpartition("/")[2]
    return pipeline.of_size(size) if size in pipeline.sizes else pipeline


@dataclass(frozen=True, kw_only=True, slots=True)
class _Said:
    """What the files at hand say of the dataset; any of them may be damaged.

    Attributes:
        index: contents of dataset.json, None if it is missing or damaged.
        record: what plan.json tells, likewise.
        sums: contents of SHA256SUMS, likewise {}.
        infos: what ``index`` says of each shard, by name.
    """

    index: DatasetIndex | None
    record: PlanRecord | None
    sums: Mapping[str, str]
    infos: Mapping[str, ShardInfo] = field(default_factory=dict)

    @staticmethod
    def of(store: Store) -> "_Said":
        try:
            index = DatasetIndex.read(store)
        except DatasetError:
            index = None
        try:
            sums = read_sums(store) or {}
        except DatasetError:
            sums = {}
        infos = {shard.name: shard for shard in index.shards} if index else {}
        return _Said(index=index, record=_plan_record(store), sums=sums, infos=infos)

    def plans(self) -> list[PlanRecord]:
        """What each file tells of the plan that has one."""
        found = [] if self.record is None else [self.record]
        return found if self.index is None else [*found, record_of(self.index)]

    def editions(self) -> tuple[Edition, ...]:
        """Of the dataset, by the file that knows most of them; () if none tells."""
        return max((plan.editions for plan in self.plans()), key=len, default=())

    def sha256s(self, shard: PlannedShard) -> set[str]:
        """Of its tar, by each file that tells it."""
        info = self.infos.get(shard.name)
        known = {self.sums.get(tar_name(shard.split, shard.name)), info.sha256 if info else None}
        return {digest for digest in known if digest is not None}


def _plan_record(store: Store) -> PlanRecord | None:
    try:
        return parse_record(store.read_json(PLAN_SETTINGS_FILE))
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _mend_plan(
    pipeline: SeasonPipeline, store: Store, said: _Said, scratch: Path
) -> tuple[PlannedDataset, list[str]]:
    """The dataset as it must be, and the files of its plan that were written again."""
    _refuse_half_a_plan(store, said)
    labels = read_labels(pipeline, scratch)
    is_damaged = _has_damaged_editions(store, said)
    season = plan_labels(
        labels,
        pipeline,
        recovered_editions(store, said.index, labels, pipeline)
        if is_damaged
        else earlier_of(store, said.editions()),
    )
    dataset = PlannedDataset(
        folder="",
        store=store,
        pipeline=pipeline,
        plan=season.plans[""],
        num_images=season.labels.images.num_rows,
    )
    if is_damaged and dataset.plan.plan_hash not in {plan.plan_hash for plan in said.plans()}:
        raise beyond_recovery(store, "index and rejects, or the catalog, are of another plan")
    _require_same_plan(dataset, said)
    _refuse_other_shards(dataset, said)
    wanted = Store(url=str(scratch / "wanted"))
    write_plan(replace(dataset, store=wanted), season)
    names = plan_files(dataset.plan.editions)
    mended = [name for name in names if not _is_as_written(store, wanted, name, said)]
    for name in mended:
        store.upload(scratch / "wanted" / name, name)
    return dataset, mended


def _has_damaged_editions(store: Store, said: _Said) -> bool:
    """Whether the files that alone tell what was planned when cannot be used."""
    try:
        earlier_of(store, said.editions())
    except DatasetError:
        return True
    return False


def _refuse_half_a_plan(store: Store, said: _Said) -> None:
    """Nothing, unless the plan of an edition was being written when its process was killed."""
    if said.record is not None and not said.record.is_whole:
        raise DatasetError(
            f"the plan of an edition is not whole at {store.url}: run `serengeti-etl convert` as "
            "before, which writes it again, and then repair what is damaged"
        )


def _is_as_written(store: Store, wanted: Store, name: str, said: _Said) -> bool:
    """Whether a file is what SHA256SUMS says, or what would be written today."""
    digest = sha256_of(store, name)
    return digest is not None and digest in {said.sums.get(name), sha256_of(wanted, name)}


def _require_same_plan(dataset: PlannedDataset, said: _Said) -> None:
    """Nothing, if a file at hand says that this plan made the dataset."""
    plans = said.plans()
    if any(plan.plan_hash == dataset.plan.plan_hash for plan in plans):
        return
    for plan in plans:
        refuse_another_plan(plan, record_of_plan(dataset), dataset.store.url)
    # Neither file is there to ask: then one commit record of this plan will do.
    if not any(_committed(dataset.store, shard) for shard in dataset.plan.shards):
        raise DatasetError(
            f"nothing at {dataset.store.url} is of the plan of this pipeline, not {DATASET_FILE}, "
            f"nor {PLAN_SETTINGS_FILE} nor any shard: `serengeti-etl convert` makes it"
        )


def _refuse_other_shards(dataset: PlannedDataset, said: _Said) -> None:
    """Nothing, if every shard of dataset.json is of the plan, or not there at all."""
    planned = {shard.name for shard in dataset.plan.shards}
    for name, info in said.infos.items():
        if name not in planned and read_report(dataset.store, name) == info:
            raise DatasetError(
                f"shard {name} of {dataset.store.url} is not in the plan of this pipeline: repair "
                "would lose it"
            )


def _committed(store: Store, shard: PlannedShard) -> ShardInfo | None:
    """The report in the commit record of ``shard``, None if there is none of this plan."""
    report = read_report(store, shard.name)
    if report is None or (report.fingerprint, report.split) != (shard.fingerprint, shard.split):
        return None
    return report if report.name == shard.name else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ExamineTask:
    """One shard to examine.

    Attributes:
        store: where the dataset is.
        shard: as the plan has it.
        sums: checksums of its files by name, as far as they are known.
        sha256s: of its tar, by each file that tells it.
    """

    store: Store
    shard: PlannedShard
    sums: Mapping[str, str]
    sha256s: frozenset[str]

    @property
    def key(self) -> str:
        """Names this task on a cluster; the same shard elsewhere is another."""
        what = f"{self.store.url} {self.shard} {sorted(self.sums.items())} {sorted(self.sha256s)}"
        return f"examine-{self.shard.name}-{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def is_whole(task: ExamineTask) -> bool:
    """True if the shard is there, and every file of it is what it was when it was committed.

    Raises:
        OSError: the store failed on every try.
    """
    report = _committed(task.store, task.shard)
    if report is None or (task.sha256s and report.sha256 not in task.sha256s):
        return False
    sums = {name: task.sums[name] for name in shard_files(report) if name in task.sums}
    sums.pop(report.tar_name, None)  # the report has the tar's, and ``sha256s`` agree with it
    return not check_shard(VerifyTask(store=task.store, shard=report, sums=sums)).problems


def _damaged(
    dataset: PlannedDataset, said: _Said, runner: Runner, on_examined: OnExamined | None
) -> Iterator[PlannedShard]:
    """The shards that are not whole."""
    for outcome in runner.map(is_whole, _examine_tasks(dataset, said)):
        shard = outcome.task.shard
        if outcome.error is not None:
            raise Incomplete(f"shard {shard.name} cannot be read ({outcome.error}): run it again")
        if not outcome.result:
            yield shard
        if on_examined is not None:
            on_examined(shard)


def _examine_tasks(dataset: PlannedDataset, said: _Said) -> Iterator[ExamineTask]:
    for shard in dataset.plan.shards:
        names = (index_part_name(shard.name), rejects_name(shard.name))
        yield ExamineTask(
            store=dataset.store,
            shard=shard,
            sums={name: said.sums[name] for name in names if name in said.sums},
            sha256s=frozenset(said.sha256s(shard)),
        )


def _refuse_other_bytes(
    dataset: PlannedDataset, said: _Said, made: Mapping[str, ShardInfo]
) -> None:
    """Nothing, if every shard that was made again is what it was; else it counts as not made."""
    changed = [
        shard.name
        for shard in dataset.plan.shards
        if shard.name in made
        and said.sha256s(shard)
        and made[shard.name].sha256 not in said.sha256s(shard)
    ]
    for name in changed:
        dataset.store.delete(index_part_name(name))
    if changed:
        raise DatasetError(
            f"the source has changed: {len(changed)} shards, such as {changed[0]}, made again from "
            f"{dataset.pipeline.source}, have other bytes than {dataset.store.url} says. Put the "
            "photographs back as they were and repair again; `serengeti-etl convert` instead takes "
            "them as they are now"
        )


def _digests(store: Store) -> dict[str, str | None]:
    """Checksums of the files that are written anew at the end."""
    return {name: sha256_of(store, name) for name in (INDEX_FILE, SUMS_FILE, DATASET_FILE)}


def _remove_strays(dataset: PlannedDataset) -> tuple[str, ...]:
    """Remove what has the name of a shard's file, of a shard that is not in the dataset."""
    store = dataset.store
    info = DatasetIndex.read(store)
    known = {name for shard in info.shards for name in shard_files(shard)}
    splits = sorted({shard.split for shard in dataset.plan.shards})
    strays = [
        name
        for folder in (*splits, "index", "rejects")
        for name in store.list(folder)
        if name not in known and _is_named_as_ours(name, splits)
    ]
    for name in strays:
        store.delete(name)
    return tuple(strays)


def _is_named_as_ours(name: str, splits: Iterable[str]) -> bool:
    names = "|".join(re.escape(split) for split in splits)
    forms = (rf"({names})/\1-\d{{6,}}\.tar", rf"(index|rejects)/({names})-\d{{6,}}\.parquet")
    return any(re.fullmatch(form, name) for form in forms)
