"""One task: fetch the photographs of one shard, resize, tar, and write its commit record last.

Of several sizes, each has a tar and a commit record of its own; the photographs are fetched and
decoded once.
"""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.careful import CarefulResizer
from serengeti_etl.convert.doubles import check_doubles
from serengeti_etl.convert.fetch import Wanted, fetch_in_order
from serengeti_etl.convert.member import Location
from serengeti_etl.convert.resize import ResizedImage, encoder_version, resize_to_each
from serengeti_etl.convert.tar_file import TarFile
from serengeti_etl.dataset.editions import RETRIED_FILE
from serengeti_etl.dataset.index import (
    INDEX_SCHEMA,
    PLAN_FILE,
    REJECT_SCHEMA,
    ShardInfo,
    index_part_name,
    read_table,
    rejects_name,
    tar_name,
    write_table,
)
from serengeti_etl.errors import ConfigError, ImageError, ShardError
from serengeti_etl.stages import Stages
from serengeti_etl.storage import Store

LOCATIONS_FILE = "plan/locations.parquet"
"""Where in their archives the photographs of plan.parquet lie; only while a conversion lasts."""

MIN_JUDGED = 20
"""Images that a shard must have before a share of rejects among them says anything."""

_SIDECAR_COLUMNS = ("image_id", "seq_id", "frame_num", "site", "season", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardOutput:
    """The shard at one size.

    Attributes:
        store: where that dataset is written.
        resize: how photographs become smaller.
        fingerprint: of all that decides its bytes.
    """

    store: Store
    resize: ResizeSettings
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """What one worker is told: a pointer to rows of the plan, never the rows.

    Attributes:
        name: of the shard, such as ``train-000012``.
        split: ``train`` or ``val``.
        row_group: its rows in plan.parquet.
        plan: the dataset whose ``PLAN_FILE`` and ``LOCATIONS_FILE`` are read.
        outputs: one for each size that is to be made.
        images: where the photographs, or the archives that hold them, lie.
        is_archived: True if they lie in archives, at the places of ``LOCATIONS_FILE``.
        encoder: libraries that the driver has; a worker with others refuses.
        num_threads: that resize; None takes one for each core that this process may use.
        max_reject_share: share of rejects, 0–1, above which a shard of ``MIN_JUDGED`` images or
            more fails.
        is_careful: True resizes in a child that may die of a photograph: slower, the same bytes.
        is_retried: True if a later edition tries some of its rejects again: they stay rejected
            here, as ``RETRIED_FILE`` of each output has them, however good they are by now.
    """

    name: str
    split: str
    row_group: int
    plan: Store
    outputs: tuple[ShardOutput, ...]
    images: Store
    encoder: str
    is_archived: bool = False
    num_threads: int | None = None
    max_reject_share: float = 1.0
    is_careful: bool = False
    is_retried: bool = False

    @property
    def key(self) -> str:
        """Names this task on a cluster: two drivers that want the same shard share one task.

        At the same place: of two conversions to two places, each has its own.
        """
        what = "\n".join(f"{one.store.url} {one.fingerprint}" for one in self.outputs)
        kind = "careful-shard" if self.is_careful else "shard"
        return f"{kind}-{self.name}-{hashlib.sha256(what.encode()).hexdigest()[:32]}"

    def careful(self) -> "ShardTask":
        """The same work for after a worker's death, which may have come of a photograph."""
        return replace(self, is_careful=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What came of one shard at one size.

    Attributes:
        info: the commit record.
        rejects_by_reason: images that are not in the tar, by reason.
        examples: up to three rejects, as ``file: reason``.
    """

    info: ShardInfo
    rejects_by_reason: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskReport:
    """What came of one task.

    Attributes:
        shards: one for each of its outputs, in their order.
        num_source_bytes: bytes of photographs read.
        seconds: wall time per stage: ``fetch`` (waiting for photographs), ``decode``, ``reduce``,
            ``encode`` (summed over threads), ``tar``, ``hash``, ``upload``.
    """

    shards: tuple[ShardReport, ...]
    num_source_bytes: int
    seconds: Mapping[str, float]


def make_shard(task: ShardTask) -> TaskReport:
    """The shard of ``task``, on storage, with its rejects and, last, its index part; at each size.

    Killed anywhere before the last write of a size, that size does not count and is made again.

    Raises:
        OSError: the store failed on every try; no photograph is blamed.
        ShardError: so many photographs were refused that the store is rather to blame than they.
        ConfigError: this worker's libvips is not the driver's.
    """
    if encoder_version() != task.encoder:
        raise ConfigError(
            f"this worker has {encoder_version()}, the driver {task.encoder}: their pixels differ; "
            "install the same pyvips-binary and simplejpeg on all of them"
        )
    stages = Stages()
    rows = _row_group(task, PLAN_FILE)
    num_source_bytes = 0
    with ExitStack() as tars:
        shards = [
            _Shard(task, output, _open_tar(task, output, tars, stages)) for output in task.outputs
        ]
        wanted = _without(shards[0].retried, _wanted(task, rows), rows)
        contents = _timed(
            check_doubles(task.images, wanted, fetch_in_order(task.images, wanted)), stages
        )
        for row, results in zip(rows, _resized(contents, task, stages), strict=True):
            num_source_bytes += results[0].source_num_bytes
            for shard, result in zip(shards, results, strict=True):
                shard.add(row, result)
                shard.check_rejects(len(rows))
        for shard in shards:
            shard.tar.close()
        with stages.time("upload"):
            tars.close()  # from here on they are there; had anything been raised, they would not
    with stages.time("upload"):
        reports = tuple(shard.commit() for shard in shards)
    return TaskReport(shards=reports, num_source_bytes=num_source_bytes, seconds=stages.seconds())


def _open_tar(task: ShardTask, output: ShardOutput, tars: ExitStack, stages: Stages) -> TarFile:
    name = tar_name(task.split, task.name)
    return TarFile(tars.enter_context(output.store.create(name)), stages)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Resized:
    """A photograph ready for the tar."""

    image: ResizedImage
    sha256: str
    source_num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Refused:
    """A photograph that goes to the rejects instead."""

    stage: str
    error: ImageError
    source_num_bytes: int = 0


_Results = tuple[_Resized | _Refused, ...]
"""What became of one photograph, at each size."""


def _wanted(task: ShardTask, rows: list[dict[str, Any]]) -> list[Wanted]:
    names = [row["file_name"] for row in rows]
    if not task.is_archived:
        return [Wanted(file_name=name) for name in names]
    places = _row_group(task, LOCATIONS_FILE)
    return [
        Wanted(
            file_name=name,
            is_absent=place["archive"] is None,
            location=Location(**place) if place["archive"] is not None else None,
        )
        for name, place in zip(names, places, strict=True)
    ]


def _without(
    retried: Mapping[str, Any], wanted: list[Wanted], rows: list[dict[str, Any]]
) -> list[Wanted]:
    """The same, but that what was rejected for good is not looked for."""
    return [
        replace(one, is_absent=one.is_absent or row["image_id"] in retried)
        for one, row in zip(wanted, rows, strict=True)
    ]


def _retried(task: ShardTask, output: Store) -> dict[str, dict[str, Any]]:
    """The rejects of this shard that a later edition tries again, by image."""
    if not task.is_retried:
        return {}
    rows = read_table(output, RETRIED_FILE).to_pylist()
    return {row["image_id"]: row for row in rows if row["shard"] == task.name}


def _row_group(task: ShardTask, name: str) -> list[dict[str, Any]]:
    with task.plan.open_input(name) as file:
        table = pq.ParquetFile(file).read_row_group(task.row_group, use_threads=False)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _timed(contents: Iterator[bytes | ImageError], stages: Stages) -> Iterator[bytes | ImageError]:
    while True:
        with stages.time("fetch"):
            content = next(contents, None)
        if content is None:
            return
        yield content


def _resized(
    contents: Iterator[bytes | ImageError], task: ShardTask, stages: Stages
) -> Iterator[_Results]:
    """Each photograph resized, in order, in threads; few wait, so that little memory is held."""
    wanted = [output.resize for output in task.outputs]
    if task.is_careful:
        with CarefulResizer(wanted) as careful:
            for content in contents:
                yield _resize_one(content, len(wanted), careful.resize, stages)
        return
    num_threads = task.num_threads or _num_usable_cores()
    resize = partial(resize_to_each, wanted=wanted, stages=stages)
    pending: deque[Future[_Results]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="resize") as pool:
        for content in contents:
            pending.append(pool.submit(_resize_one, content, len(wanted), resize, stages))
            if len(pending) > num_threads + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _num_usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resize_one(
    content: bytes | ImageError,
    num_sizes: int,
    resize: Callable[[bytes], tuple[ResizedImage | ImageError, ...]],
    stages: Stages,
) -> _Results:
    if isinstance(content, ImageError):
        return (_Refused(stage="fetch", error=content),) * num_sizes
    return tuple(_result(outcome, len(content), stages) for outcome in resize(content))


def _result(
    outcome: ResizedImage | ImageError, source_num_bytes: int, stages: Stages
) -> _Resized | _Refused:
    if isinstance(outcome, ImageError):
        return _Refused(stage="resize", error=outcome, source_num_bytes=source_num_bytes)
    with stages.time("hash"):
        digest = hashlib.sha256(outcome.jpeg).hexdigest()
    return _Resized(image=outcome, sha256=digest, source_num_bytes=source_num_bytes)


class _Shard:
    """A shard in the making, at one size: its tar, its rows, its rejects."""

    def __init__(self, task: ShardTask, output: ShardOutput, tar: TarFile) -> None:
        self.task = task
        self.output = output
        self.tar = tar
        self.index_rows: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.retried = _retried(task, output.store)

    def add(self, row: dict[str, Any], result: _Resized | _Refused) -> None:
        """Append one photograph, or note why there is none."""
        if row["image_id"] in self.retried:
            self.rejects.append(self.retried[row["image_id"]])
        elif isinstance(result, _Refused):
            self._reject(row, result.stage, result.error)
        else:
            self._append(row, result)

    def check_rejects(self, num_planned: int) -> None:
        """Nothing, as long as the rejects are within the budget of a shard of so many images.

        Raises:
            ShardError: they are not; names reasons and examples.
        """
        share = self.task.max_reject_share
        if num_planned < MIN_JUDGED or len(self.rejects) / num_planned <= share:
            return
        reasons = dict(Counter(row["reason"] for row in self.rejects))
        raise ShardError(
            f"{len(self.rejects)} of its {num_planned} photographs are refused already "
            f"({reasons}), for example {'; '.join(self._examples())}; that is above "
            f"max_shard_reject_share ({share}), as when a store answers nonsense for a while. If "
            "they are truly so, raise it in the pipeline file"
        )

    def commit(self) -> ShardReport:
        """Put the rejects and, last, the commit record on storage, where the tar is already."""
        info = ShardInfo(
            name=self.task.name,
            split=self.task.split,
            num_samples=len(self.index_rows),
            num_bytes=self.tar.num_bytes,
            num_rejected=len(self.rejects),
            sha256=self.tar.sha256(),
            fingerprint=self.output.fingerprint,
        )
        self._write(info)
        return self._report(info)

    def _append(self, row: dict[str, Any], result: _Resized) -> None:
        image = result.image
        moment = row["datetime"].isoformat(sep=" ") if row["datetime"] else None
        sidecar = {name: row[name] for name in _SIDECAR_COLUMNS}
        sidecar |= {"datetime": moment, "width": image.width, "height": image.height}
        offset = self.tar.add(f"{row['image_id']}.jpg", image.jpeg)
        text = json.dumps(sidecar, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self.tar.add(f"{row['image_id']}.json", text.encode())
        self.index_rows.append(
            {name: row[name] for name in INDEX_SCHEMA.names if name in row}
            | {
                "offset": offset,
                "num_bytes": len(image.jpeg),
                "width": image.width,
                "height": image.height,
                "source_width": image.source_width,
                "source_height": image.source_height,
                "source_num_bytes": result.source_num_bytes,
                "sha256": result.sha256,
            }
        )

    def _reject(self, row: dict[str, Any], stage: str, error: ImageError) -> None:
        rejected = {name: row[name] for name in REJECT_SCHEMA.names if name in row}
        rejected |= {"state": "rejected", "stage": stage}
        self.rejects.append(rejected | {"reason": error.reason, "message": error.message})

    def _write(self, info: ShardInfo) -> None:
        output, name = self.output.store, self.task.name
        if self.rejects:
            rejects = pa.Table.from_pylist(self.rejects, schema=REJECT_SCHEMA)
            write_table(output, rejects_name(name), rejects)
        # Those of an earlier try that met a fault which has passed go with the leftovers.
        rows = pa.Table.from_pylist(self.index_rows, schema=INDEX_SCHEMA)
        write_table(output, index_part_name(name), rows, report=info)

    def _report(self, info: ShardInfo) -> ShardReport:
        return ShardReport(
            info=info,
            rejects_by_reason=Counter(row["reason"] for row in self.rejects),
            examples=self._examples(),
        )

    def _examples(self) -> tuple[str, ...]:
        return tuple(f"{row['file_name']}: {row['message']}" for row in self.rejects[:3])
