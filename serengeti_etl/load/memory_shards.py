"""Shards straight from the store into memory."""

from collections.abc import Sequence

from serengeti_etl.load.bringer import Desk
from serengeti_etl.load.held_shards import HeldBytes
from serengeti_etl.load.shard_fetch import ShardFetcher
from serengeti_etl.load.shard_source import Shard


class MemoryShards:
    """See ``Bringer``.

    Args:
        shards: by number.
        fetcher: of the same shards.
    """

    def __init__(self, shards: Sequence[Shard], fetcher: ShardFetcher) -> None:
        self._shards, self._fetcher = shards, fetcher

    def bring(self, shard: int, desk: Desk) -> HeldBytes:  # noqa: ARG002 - for other bringers
        """See ``Bringer``."""
        sink = _Memory(self._shards[shard].info.num_bytes)
        damaged = self._fetcher.fetch(shard, sink)
        if damaged is not None:
            return HeldBytes(damaged, is_whole=False)
        return HeldBytes(sink.content, is_whole=True)


class _Memory:
    """A ``Sink``."""

    def __init__(self, num_bytes: int) -> None:
        self.content = bytearray(num_bytes)

    def put(self, offset: int, part: bytes) -> None:
        self.content[offset : offset + len(part)] = part
