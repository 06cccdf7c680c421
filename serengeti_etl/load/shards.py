"""Shards at hand: read in place from a local folder, or through a bounded local cache.

``ShardFiles`` is what the loader sees: ``schedule`` the shards of the epoch, ``begin`` and ``end``
the use of some by a batch, ``open`` one while it is in use.
"""

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.errors import ShardError, require
from serengeti_etl.storage import Store

NUM_FETCHES = 4
"""Whole shards fetched at the same time; one stream alone does not fill a link to a bucket."""

NUM_TRIES = 3
"""Times that a cached shard is opened anew when another process evicts it in between."""

STALE_SECONDS = 3600
"""Age at which an unfinished file in the cache must be of a killed process."""

_CACHED_NAME = re.compile(r"serengeti-[0-9a-f]{64}\.tar")


class ShardFiles(Protocol):
    """The tars of one split, by number."""

    def schedule(self, shards: Sequence[int], window: int) -> None:
        """Say which shards will be needed, in order, ``window`` neighbours at a time."""

    def begin(self, shards: Iterable[int]) -> None:
        """Start bringing these shards, and keep them until ``end``; does not wait."""

    def end(self, shards: Iterable[int]) -> None:
        """These shards are no longer used by the batch that called ``begin``."""

    def open(self, shard: int) -> int:
        """File descriptor of a shard's tar, to be closed by the caller; waits for the shard."""

    def close(self) -> None:
        """End background work."""


class LocalShards:
    """Shards in a local folder, read where they are.

    Args:
        store: the dataset, in a local folder.
        shards: the shards of the split, in the order of the dataset.
    """

    def __init__(self, store: Store, shards: Sequence[ShardInfo]) -> None:
        self._paths = [store.local_path(shard.tar_name) for shard in shards]

    def schedule(self, shards: Sequence[int], window: int) -> None:
        """Nothing to do: the files are there."""

    def begin(self, shards: Iterable[int]) -> None:
        """Nothing to do: the files are there."""

    def end(self, shards: Iterable[int]) -> None:
        """Nothing to do: the files stay."""

    def open(self, shard: int) -> int:
        """File descriptor of a shard's tar, to be closed by the caller.

        Raises:
            ShardError: there is no such file.
        """
        path = self._paths[shard]
        try:
            return os.open(str(path), os.O_RDONLY)
        except FileNotFoundError:
            raise ShardError(f"{path} is missing; run `serengeti-etl verify` on it") from None

    def close(self) -> None:
        """Nothing to end."""


class CachedShards:
    """Shards of any store, fetched whole into a local folder that stays within a size.

    Files are named by full url and checksum, so ``train/000.tar`` and ``val/000.tar`` of any two
    datasets never meet. Every shard is checked against its checksum before its first use in a
    process, also one that an earlier run left in the folder. Only files of that naming are ever
    deleted, the longest unused first. An evicted file that another process still has open remains
    readable to it, so processes of one host may share the folder.

    Args:
        store: the dataset.
        shards: the shards of the split, in the order of the dataset.
        folder: where to keep tars; made if missing.
        limit_bytes: size that the folder is kept within; only the shards that one window or the
            batches in flight need at once may exceed it.
    """

    def __init__(
        self, store: Store, shards: Sequence[ShardInfo], folder: Path, limit_bytes: int
    ) -> None:
        require(limit_bytes > 0, "cache_bytes", limit_bytes, "positive")
        self._store, self._shards, self._folder, self._limit = store, shards, folder, limit_bytes
        self._names = [_cached_name(store, shard) for shard in shards]
        self._lock = threading.Lock()
        self._uses: Counter[int] = Counter()
        self._at_hand: dict[int, Future[Path]] = {}  # fetched or on the way
        self._arriving_bytes = 0
        self._coming: list[int] = []
        self._place: dict[int, int] = {}
        self._window, self._floor, self._next = 1, 0, 0
        self._pool = ThreadPoolExecutor(NUM_FETCHES, thread_name_prefix="serengeti-fetch")
        folder.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)

    def schedule(self, shards: Sequence[int], window: int) -> None:
        """Say which shards will be needed, in order, ``window`` neighbours at a time."""
        with self._lock:
            self._coming = [int(shard) for shard in shards]
            self._place = {shard: place for place, shard in enumerate(self._coming)}
            self._window, self._floor, self._next = max(1, window), 0, 0

    def begin(self, shards: Iterable[int]) -> None:
        """Start fetching these shards, and keep them until ``end``; does not wait."""
        with self._lock:
            for shard in shards:
                self._uses[shard] += 1
                self._fetch(shard)
                start_of_window = self._place[shard] // self._window * self._window
                self._floor = max(self._floor, start_of_window)
            self._fetch_ahead()

    def end(self, shards: Iterable[int]) -> None:
        """These shards are no longer used by the batch that called ``begin``."""
        with self._lock:
            self._uses.subtract(shards)
            self._uses += Counter()  # drops zeros
            self._fetch_ahead()

    def open(self, shard: int) -> int:
        """File descriptor of a shard's tar, to be closed by the caller; waits for the shard.

        Raises:
            ShardError: the shard does not match its checksum, fetched twice.
            OSError: the store or the disk failed.
        """
        for _ in range(NUM_TRIES):
            with self._lock:
                future = self._fetch(shard)
            path = future.result()
            try:
                descriptor = os.open(path, os.O_RDONLY)
                os.utime(descriptor)
            except FileNotFoundError:
                # Another process that shares the folder evicted it just now.
                with self._lock:
                    if self._at_hand.get(shard) is future:
                        del self._at_hand[shard]
            else:
                return descriptor
        raise ShardError(
            f"{self._folder} loses {self._shards[shard].name} before it can be read; "
            "raise cache_bytes, or give each run a cache of its own"
        )

    def close(self) -> None:
        """End background fetching; the cached files stay for the next run."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _fetch(self, shard: int) -> "Future[Path]":
        """The shard's file, sooner or later; with the lock held."""
        if shard not in self._at_hand:
            self._at_hand[shard] = self._pool.submit(self._bring, shard)
        return self._at_hand[shard]

    def _fetch_ahead(self) -> None:
        """Fetch what comes next as far as it fits beside what is needed; with the lock held."""
        while self._next < len(self._coming):
            shard = self._coming[self._next]
            if self._shards[shard].num_samples and self._next >= self._floor:
                needed = self._needed() | {shard}
                if sum(self._shards[number].num_bytes for number in needed) > self._limit:
                    return
                self._fetch(shard)
            self._next += 1

    def _needed(self) -> set[int]:
        """Shards at hand that must stay: in use, of the current window, or fetched ahead."""
        # The order never returns to a window that it has left.
        ahead = max(self._next, self._floor + self._window)
        due = set(self._coming[self._floor : ahead]) | set(self._uses)
        return due.intersection(self._at_hand)

    def _bring(self, shard: int) -> Path:
        """Path of the checked file, fetched if need be; runs in the pool."""
        path, info = self._folder / self._names[shard], self._shards[shard]
        if _matches(path, info):
            return path
        content = self._checked_content(info)
        with self._lock:
            self._make_room(info.num_bytes)
            self._arriving_bytes += info.num_bytes
        try:
            _place_file(path, content)
        finally:
            with self._lock:
                self._arriving_bytes -= info.num_bytes
        return path

    def _checked_content(self, info: ShardInfo) -> bytes:
        for _ in range(2):
            content = self._store.read(info.tar_name)
            if hashlib.sha256(content).hexdigest() == info.sha256:
                return content
        raise ShardError(
            f"shard {info.name} of {self._store.url} does not match its checksum, fetched twice; "
            f"run `serengeti-etl verify {self._store.url}`"
        )

    def _make_room(self, num_bytes: int) -> None:
        """Delete the longest unused of our files until ``num_bytes`` more fit; with the lock."""
        shard_of = {name: shard for shard, name in enumerate(self._names)}
        kept = {self._names[shard] for shard in self._needed()}
        files = sorted(_cached_files(self._folder), key=lambda file: file[1].st_mtime_ns)
        total = sum(status.st_size for _, status in files) + self._arriving_bytes + num_bytes
        for path, status in files:
            if total <= self._limit:
                return
            if path.name not in kept:
                path.unlink(missing_ok=True)
                self._at_hand.pop(shard_of.get(path.name, -1), None)
                total -= status.st_size


def open_shards(
    store: Store, shards: Sequence[ShardInfo], cache_folder: str, cache_bytes: int
) -> ShardFiles:
    """The tars of a split: in place if the dataset is in a local folder, else through a cache.

    Args:
        store: the dataset.
        shards: the shards of the split, in the order of the dataset.
        cache_folder: local folder for shards of a bucket.
        cache_bytes: size that this folder is kept within.
    """
    if store.local_path("") is not None:
        return LocalShards(store, shards)
    return CachedShards(store, shards, Path(cache_folder).expanduser(), cache_bytes)


def _cached_name(store: Store, shard: ShardInfo) -> str:
    place = f"{store.url.rstrip('/')}/{shard.tar_name}\n{shard.sha256}"
    return f"serengeti-{hashlib.blake2b(place.encode(), digest_size=32).hexdigest()}.tar"


def _matches(path: Path, info: ShardInfo) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
    except FileNotFoundError:
        return False


def _place_file(path: Path, content: bytes) -> None:
    """Put a file whole or not at all; no fsync, since its checksum is read before its use."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _cached_files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Our tars in the folder; one that another process deletes meanwhile is left out."""
    files = []
    for entry in os.scandir(folder):
        if _CACHED_NAME.fullmatch(entry.name):
            with contextlib.suppress(FileNotFoundError):
                files.append((Path(entry.path), entry.stat()))
    return files


def _remove_stale(folder: Path) -> None:
    """Remove unfinished files that killed processes left behind."""
    for path in folder.glob("serengeti-*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                path.unlink()
