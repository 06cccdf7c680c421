"""What has come in of a conversion so far, and when it is too much of the wrong kind."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from serengeti_etl.cluster import Outcome
from serengeti_etl.convert.planned import PlannedDataset
from serengeti_etl.convert.shard import ShardReport, ShardTask, TaskReport
from serengeti_etl.errors import Incomplete, TooManyFailures

if TYPE_CHECKING:
    from serengeti_etl.dataset.index import ShardInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """One more shard is there, at every size.

    Attributes:
        name: of that shard.
        num_images: of its plan.
        num_rejected: of them, those that are rejected in the end.
        num_source_bytes: bytes of photographs read for it by this run.
        is_new: False if an earlier run had made it.
        num_planned: images of the whole plan.
    """

    name: str
    num_images: int
    num_rejected: int
    num_source_bytes: int
    is_new: bool
    num_planned: int


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Retried:
    """Rejects of a shard that a later edition tries again.

    Attributes:
        by_reason: how many.
        examples: all of them, as ``ShardReport`` has examples.
    """

    by_reason: Counter[str] = field(default_factory=Counter)
    examples: set[str] = field(default_factory=set)


_NONE = _Retried()


def _by_shard(retried: pa.Table) -> dict[str, _Retried]:
    found: defaultdict[str, _Retried] = defaultdict(_Retried)
    for row in retried.to_pylist():
        found[row["shard"]].by_reason[row["reason"]] += 1
        found[row["shard"]].examples.add(f"{row['file_name']}: {row['message']}")
    return dict(found)


class DatasetTally:
    """What has come in of one dataset.

    Args:
        dataset: what it is to be.
    """

    def __init__(self, dataset: PlannedDataset) -> None:
        self.num_shards = len(dataset.plan.shards)
        plan = dataset.plan
        # An image that is tried again is planned once; what came of it before counts no more.
        self.num_planned = plan.rows.num_rows - plan.retried.num_rows
        self.retried = _by_shard(plan.retried)
        share, count = dataset.pipeline.max_reject_share, dataset.pipeline.max_rejects
        self.budgets = {"max_reject_share": share * self.num_planned}
        if count is not None:
            self.budgets["max_rejects"] = count
        self.infos: dict[str, ShardInfo] = {}
        self.rejects: Counter[str] = Counter()
        self.examples: list[str] = []
        self.made: set[str] = set()

    @property
    def is_whole(self) -> bool:
        """True when every shard of the plan is there."""
        return len(self.infos) == self.num_shards

    def add(self, report: ShardReport, *, is_new: bool) -> None:
        """Count one shard."""
        self.infos[report.info.name] = report.info
        retried = self.retried.get(report.info.name, _NONE)
        self.rejects.update(report.rejects_by_reason)
        self.rejects -= retried.by_reason
        self.examples += [one for one in report.examples if one not in retried.examples]
        if is_new:
            self.made.add(report.info.name)

    def num_rejected(self, report: ShardReport) -> int:
        """Rejects of one shard, without those that a later one tries again."""
        retried = self.retried.get(report.info.name, _NONE)
        return report.info.num_rejected - retried.by_reason.total()

    def check_rejects(self) -> None:
        """Nothing, as long as the rejects are within the budget.

        Raises:
            TooManyFailures: they are not; names examples.
        """
        for name, most in self.budgets.items():
            if self.rejects.total() > most:
                raise TooManyFailures(
                    f"{self.rejects.total()} of {self.num_planned} planned images were rejected "
                    f"({dict(self.rejects)}), which is above {name}; for example "
                    f"{'; '.join(self.examples[:3])}. Mend the source, or raise {name} in the "
                    "pipeline file, and run the same command again: finished shards are kept"
                )


class Tally:
    """What has come in of all datasets of one run, and what it took.

    Args:
        datasets: what they are to be; their plans have the same shards.
        on_progress: called with each shard that is there at every size.
    """

    def __init__(self, datasets: Sequence[PlannedDataset], on_progress: OnProgress | None) -> None:
        self.by_url = {dataset.store.url: DatasetTally(dataset) for dataset in datasets}
        self.num_planned = datasets[0].plan.rows.num_rows
        self.on_progress = on_progress
        self.failures: dict[str, OSError] = {}
        self.num_source_bytes = 0
        self.seconds: Counter[str] = Counter()

    def of(self, dataset: PlannedDataset) -> DatasetTally:
        """The part of ``dataset``."""
        return self.by_url[dataset.store.url]

    def add_known(self, found: Sequence[tuple[PlannedDataset, ShardReport]]) -> None:
        """Count one shard in the datasets for which an earlier run made it."""
        for dataset, report in found:
            self.of(dataset).add(report, is_new=False)
        if len(found) == len(self.by_url):
            self._tell(self.of(found[0][0]), found[0][1], 0, is_new=False)
        for dataset, _ in found:
            self.of(dataset).check_rejects()

    def add_all(self, outcomes: Iterator[Outcome[ShardTask, TaskReport]]) -> None:
        """Count what this run makes, as it comes."""
        for outcome in outcomes:
            if outcome.result is not None:
                self._add(outcome.task, outcome.result)
            elif outcome.error is not None:
                self.failures[outcome.task.name] = outcome.error

    def check_whole(self) -> None:
        """Nothing, if every task was done.

        Raises:
            Incomplete: some failed; names one.
        """
        if self.failures:
            name, error = min(self.failures.items())
            raise Incomplete(
                f"{len(self.failures)} shards failed, such as {name}: {error}. "
                "The others are finished; run the same command again"
            )

    def _add(self, task: ShardTask, result: TaskReport) -> None:
        self.num_source_bytes += result.num_source_bytes
        self.seconds.update(result.seconds)
        for output, report in zip(task.outputs, result.shards, strict=True):
            self.by_url[output.store.url].add(report, is_new=True)
        first = self.by_url[task.outputs[0].store.url]
        self._tell(first, result.shards[0], result.num_source_bytes, is_new=True)
        for output in task.outputs:
            self.by_url[output.store.url].check_rejects()

    def _tell(
        self, tally: DatasetTally, report: ShardReport, num_source_bytes: int, *, is_new: bool
    ) -> None:
        if self.on_progress is None:
            return
        progress = Progress(
            name=report.info.name,
            num_images=report.info.num_samples + report.info.num_rejected,
            num_rejected=tally.num_rejected(report),
            num_source_bytes=num_source_bytes,
            is_new=is_new,
            num_planned=self.num_planned,
        )
        self.on_progress(progress)
