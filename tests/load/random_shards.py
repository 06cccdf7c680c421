"""Shards of random bytes: a source does not look inside."""

import contextlib
import fcntl
import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.load.cache_folder import LOCK_NAME
from serengeti_etl.load.shard_source import CacheSettings, Shard, ShardSource
from serengeti_etl.load.shards import open_source
from serengeti_etl.storage import Store

NUM_BYTES = 5000
"""Of each shard."""


def content(number: int, split: str = "train") -> bytes:
    """The bytes of a shard."""
    return random.Random(f"{split} {number}").randbytes(NUM_BYTES)  # noqa: S311 - repeatable


def shards_at(store: Store, num_shards: int, split: str = "train") -> list[Shard]:
    """Shards that are, or will be, at ``store``."""
    return [Shard(store=store, info=_info(number, split)) for number in range(num_shards)]


def _info(number: int, split: str) -> ShardInfo:
    return ShardInfo(
        name=f"{number:03d}",
        split=split,
        num_samples=1,
        num_bytes=NUM_BYTES,
        num_rejected=0,
        sha256=hashlib.sha256(content(number, split)).hexdigest(),
        fingerprint="0" * 64,
    )


def write_shards(store: Store, num_shards: int, split: str = "train") -> list[Shard]:
    """Shards that are at ``store`` now."""
    shards = shards_at(store, num_shards, split)
    for number, shard in enumerate(shards):
        store.write(shard.info.tar_name, content(number, split))
    return shards


def source_of(
    shards: Sequence[Shard], folder: object, num_limit: float = 100, num_ahead: float = 4
) -> ShardSource:
    """A source with bounds counted in shards."""
    settings = CacheSettings(
        folder=None if folder is None else str(folder),
        limit_bytes=int(num_limit * NUM_BYTES),
        ahead_bytes=int(num_ahead * NUM_BYTES),
    )
    return open_source(shards, settings)


def read(source: ShardSource, shard: int) -> tuple[bytes, bool]:
    """All bytes of a shard as a batch gets them, and whether they are said to be right."""
    source.begin([shard])
    opened = source.open(shard)
    try:
        return bytes(opened.read(0, 2 * NUM_BYTES)), opened.is_whole
    finally:
        opened.close()
        source.end([shard])


def folder_bytes(folder: Path) -> int:
    """Size of a cache's files, whole and partial, at a moment in which nobody makes room."""
    with (folder / LOCK_NAME).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes: dict[int, int] = {}  # by inode: a file may get its final name meanwhile
        for path in folder.glob(f"serengeti-{'?' * 64}.tar*"):
            with contextlib.suppress(FileNotFoundError):
                sizes[path.stat().st_ino] = path.stat().st_size
        return sum(sizes.values())
