"""One task: fetch the photographs of one shard, resize, tar, and write its commit record last."""

import hashlib
import io
import json
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.config import ResizeSettings
from serengeti_etl.convert.fetch import fetch_in_order
from serengeti_etl.convert.resize import ResizedImage, libvips_version, resize_jpeg
from serengeti_etl.dataset.index import (
    INDEX_SCHEMA,
    REJECT_SCHEMA,
    ShardInfo,
    index_part_name,
    rejects_name,
    tar_name,
    write_table,
)
from serengeti_etl.errors import ConfigError, ImageError
from serengeti_etl.storage import Store

PLAN_FILE = "plan/plan.parquet"

_SIDECAR_COLUMNS = ("image_id", "seq_id", "frame_num", "site", "season", "labels")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """What one worker is told: a pointer to rows of the plan, never the rows.

    Attributes:
        name: of the shard, such as ``train-000012``.
        split: ``train`` or ``val``.
        row_group: its rows in plan.parquet.
        fingerprint: of all that decides its bytes.
        output: where the dataset is written.
        images: where the photographs lie.
        resize: how they become smaller.
        encoder: libvips that the driver has; a worker with another refuses.
    """

    name: str
    split: str
    row_group: int
    fingerprint: str
    output: Store
    images: Store
    resize: ResizeSettings
    encoder: str

    @property
    def key(self) -> str:
        """Names this task on a cluster: two drivers that want the same shard share one task."""
        return f"shard-{self.name}-{self.fingerprint[:16]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What came of one task.

    Attributes:
        info: the commit record.
        rejects_by_reason: images that are not in the tar, by reason.
        examples: up to three rejects, as ``file: reason``.
        num_source_bytes: bytes of photographs read.
        seconds: wall time per stage: ``fetch`` (waiting), ``resize``, ``tar``, ``write``.
    """

    info: ShardInfo
    rejects_by_reason: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    num_source_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


def make_shard(task: ShardTask) -> ShardReport:
    """The shard of ``task``, on storage, with its rejects and, last, its index part.

    Killed anywhere before the last write, the shard does not count and is made again.

    Raises:
        OSError: the store failed on every try; no photograph is blamed.
        ConfigError: this worker's libvips is not the driver's.
    """
    if libvips_version() != task.encoder:
        raise ConfigError(
            f"this worker has {libvips_version()}, the driver {task.encoder}: their pixels differ; "
            "install the same pyvips-binary on all of them"
        )
    shard = _Shard(task)
    rows = _plan_rows(task)
    photographs = fetch_in_order(task.images, [row["file_name"] for row in rows])
    for row in rows:
        with shard.clock("fetch"):
            photograph = next(photographs)
        shard.add(row, photograph)
    return shard.commit()


def _plan_rows(task: ShardTask) -> list[dict[str, Any]]:
    with task.output.open_input(PLAN_FILE) as file:
        table = pq.ParquetFile(file).read_row_group(task.row_group, use_threads=False)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


class _Shard:
    """A shard in the making: its tar in memory, its rows, its rejects."""

    def __init__(self, task: ShardTask) -> None:
        self.task = task
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(  # noqa: SIM115 - closed by commit, where its end is written
            fileobj=self.buffer, mode="w", format=tarfile.USTAR_FORMAT, encoding="utf-8"
        )
        self.index_rows: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.num_source_bytes = 0
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[stage] += time.perf_counter() - started

    def add(self, row: dict[str, Any], photograph: bytes | ImageError) -> None:
        if isinstance(photograph, ImageError):
            self._reject(row, "fetch", photograph)
            return
        self.num_source_bytes += len(photograph)
        try:
            with self.clock("resize"):
                image = resize_jpeg(photograph, self.task.resize)
        except ImageError as error:
            self._reject(row, "resize", error)
            return
        with self.clock("tar"):
            self._append(row, image, len(photograph))

    def commit(self) -> ShardReport:
        with self.clock("tar"):
            self.tar.close()
            content = self.buffer.getbuffer()
            digest = hashlib.sha256(content).hexdigest()
        info = ShardInfo(
            name=self.task.name,
            split=self.task.split,
            num_samples=len(self.index_rows),
            num_bytes=len(content),
            num_rejected=len(self.rejects),
            sha256=digest,
            fingerprint=self.task.fingerprint,
        )
        with self.clock("write"):
            self._write(info, content)
        return self._report(info)

    def _append(self, row: dict[str, Any], image: ResizedImage, source_num_bytes: int) -> None:
        moment = row["datetime"].isoformat(sep=" ") if row["datetime"] else None
        sidecar = {name: row[name] for name in _SIDECAR_COLUMNS}
        sidecar |= {"datetime": moment, "width": image.width, "height": image.height}
        offset = self._add_member(f"{row['image_id']}.jpg", image.jpeg)
        text = json.dumps(sidecar, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        self._add_member(f"{row['image_id']}.json", text.encode())
        self.index_rows.append(
            {name: row[name] for name in INDEX_SCHEMA.names if name in row}
            | {
                "offset": offset,
                "num_bytes": len(image.jpeg),
                "width": image.width,
                "height": image.height,
                "source_width": image.source_width,
                "source_height": image.source_height,
                "source_num_bytes": source_num_bytes,
                "sha256": hashlib.sha256(image.jpeg).hexdigest(),
            }
        )

    def _add_member(self, name: str, content: bytes) -> int:
        """Append one file; its offset in the tar. Same content, same bytes: no time, no owner."""
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(content), 0, 0o644
        offset = self.buffer.tell() + tarfile.BLOCKSIZE
        self.tar.addfile(member, io.BytesIO(content))
        return offset

    def _reject(self, row: dict[str, Any], stage: str, error: ImageError) -> None:
        rejected = {name: row[name] for name in REJECT_SCHEMA.names if name in row}
        rejected |= {"state": "rejected", "stage": stage}
        self.rejects.append(rejected | {"reason": error.reason, "message": error.message})

    def _write(self, info: ShardInfo, content: memoryview) -> None:
        output, name = self.task.output, self.task.name
        output.write(tar_name(self.task.split, name), content)
        if self.rejects:
            rejects = pa.Table.from_pylist(self.rejects, schema=REJECT_SCHEMA)
            write_table(output, rejects_name(name), rejects)
        else:
            # An earlier try, killed before its commit, may have met a fault that has passed.
            output.delete(rejects_name(name))
        rows = pa.Table.from_pylist(self.index_rows, schema=INDEX_SCHEMA)
        write_table(output, index_part_name(name), rows, report=info)

    def _report(self, info: ShardInfo) -> ShardReport:
        examples = [f"{row['file_name']}: {row['message']}" for row in self.rejects[:3]]
        return ShardReport(
            info=info,
            rejects_by_reason=Counter(row["reason"] for row in self.rejects),
            examples=tuple(examples),
            num_source_bytes=self.num_source_bytes,
            seconds=dict(self.seconds),
        )
