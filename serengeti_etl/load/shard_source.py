"""Shards as the reader sees them: what to open, within which bounds, and what it cost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serengeti_etl.config import MIB
from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.errors import require
from serengeti_etl.storage import Store, join_url


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """One shard and where it is; several datasets may be mixed.

    Attributes:
        store: the dataset that it belongs to.
        info: its name, size and checksum.
    """

    store: Store
    info: ShardInfo

    @property
    def url(self) -> str:
        """Full url of the tar."""
        return join_url(self.store.url, self.info.tar_name)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """How shards are brought and kept; shards of a local folder are read where they are.

    Attributes:
        folder: local folder for the shards of buckets, which processes of one host share; None
            holds them in memory.
        limit_bytes: size that the folder, or without one the memory, is kept within. What the
            batches in work need at once beyond it is held in memory all the same.
        ahead_bytes: size of the shards that are brought, or checked, before a batch needs them.
        patience_seconds: that a store may be away before it counts as an error.
        check: compare every shard with its checksum before its first use in a run; otherwise with
            its size alone.
    """

    folder: str | None = "~/.cache/serengeti-etl"
    limit_bytes: int = 8192 * MIB
    ahead_bytes: int = 512 * MIB
    patience_seconds: float = 0.0
    check: bool = True

    def __post_init__(self) -> None:
        require(self.limit_bytes > 0, "limit_bytes", self.limit_bytes, "positive")
        require(self.ahead_bytes >= 0, "ahead_bytes", self.ahead_bytes, "zero or positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """What a source has done since it was opened.

    Attributes:
        num_bytes_fetched: taken from stores, also in vain.
        num_fetches: shards taken from stores.
        num_hits: shards found in the cache folder.
        num_refetched: shards that were taken once more because they did not match their checksum.
        num_damaged: shards handed out although they do not match.
        num_bypassed: shards held in memory because the cache folder could not take or keep them.
        seconds_fetching: waiting for stores, summed over the requests.
        seconds_checking: reading and hashing files, summed over the shards.
        seconds_waiting: that ``open`` waited, summed over the threads.
    """

    num_bytes_fetched: int = 0
    num_fetches: int = 0
    num_hits: int = 0
    num_refetched: int = 0
    num_damaged: int = 0
    num_bypassed: int = 0
    seconds_fetching: float = 0.0
    seconds_checking: float = 0.0
    seconds_waiting: float = 0.0


class OpenShard(Protocol):
    """The bytes of one shard, safe to use from several threads."""

    @property
    def is_whole(self) -> bool:
        """False when size or checksum differ, also fetched anew, or only samples were brought.

        Then each sample is to be checked.
        """

    def read(self, offset: int, num_bytes: int) -> bytes | memoryview:
        """Bytes from ``offset`` on; fewer than asked for where the shard is cut."""

    def close(self) -> None:
        """Give it back; what has been read stays valid."""


class ShardSource(Protocol):
    """Shards by number, for one rank. Made in the process that uses it, not before a fork."""

    def schedule(self, shards: Sequence[int]) -> None:
        """Say what the rest of the epoch needs, in the order of first need."""

    def begin(self, shards: Iterable[int]) -> None:
        """Bring these shards, and keep them until ``end``: a batch is in work; does not wait."""

    def end(self, shards: Iterable[int]) -> None:
        """The batch that called ``begin`` with these shards is done."""

    def release(self, shards: Iterable[int]) -> None:
        """These shards are not needed again in this epoch: the first to be dropped."""

    def open(self, shard: int) -> OpenShard:
        """The bytes of a shard, to be closed by the caller; waits for them.

        Raises:
            ShardError: the shard is missing, or the store failed on every try; says which, where,
                why and what to do.
        """

    def stats(self) -> SourceStats:
        """What has been done so far."""

    def close(self) -> None:
        """End background work, without waiting for any of it; whoever waits is told."""
