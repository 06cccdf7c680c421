"""Shards of which little is wanted: those samples alone, by few requests, straight into memory."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.config import MIB
from serengeti_etl.load.bringer import Desk
from serengeti_etl.load.held_shards import Pin
from serengeti_etl.load.shard_fetch import ShardFetcher, Span
from serengeti_etl.load.shard_source import OpenShard, Shard

MAX_GAP_NUM_BYTES = MIB // 4
"""Unwanted bytes that are read along rather than asked around: a request takes longer."""

SPARSE_SHARE = 0.25
"""Of a shard's bytes: from here on it is brought whole, which can be checked and cached."""

Wanted = Mapping[int, NDArray[np.int64]]
"""(K, 2) of each shard, by number: start and end of each wanted sample in bytes."""


def spans_of(wanted_K2: NDArray[np.int64]) -> list[Span]:
    """What to ask for: all that is wanted, in order, with the small gaps in between."""
    if not len(wanted_K2):
        return []
    starts_K, ends_K = wanted_K2[np.argsort(wanted_K2[:, 0], kind="stable")].T
    ends_K = np.maximum.accumulate(ends_K)
    is_first_K = np.ones(len(starts_K), dtype=bool)
    is_first_K[1:] = starts_K[1:] - ends_K[:-1] > MAX_GAP_NUM_BYTES
    is_last_K = np.append(is_first_K[1:], True)
    spans = zip(starts_K[is_first_K].tolist(), ends_K[is_last_K].tolist(), strict=True)
    return list(spans)


def sparse_spans(shards: Sequence[Shard], wanted: Wanted) -> dict[int, list[Span]]:
    """The spans of those shards of which little is wanted."""
    spans = {shard: spans_of(wanted_K2) for shard, wanted_K2 in wanted.items()}
    return {
        shard: these
        for shard, these in spans.items()
        if num_bytes_of(these) < SPARSE_SHARE * shards[shard].info.num_bytes
    }


def num_bytes_of(spans: Sequence[Span]) -> int:
    """Sum of their sizes."""
    return sum(end - start for start, end in spans)


class SparseShards:
    """See ``Bringer``. What it brings says that it is not whole: the reader checks each sample.

    Args:
        fetcher: of the shards.
        spans: of those of which little is wanted.
    """

    def __init__(self, fetcher: ShardFetcher, spans: Mapping[int, Sequence[Span]]) -> None:
        self._fetcher, self._spans = fetcher, spans

    def bring(self, shard: int, desk: Desk) -> "HeldSpans":  # noqa: ARG002 - for other bringers
        """See ``Bringer``."""
        spans = self._spans[shard]
        return HeldSpans(spans, self._fetcher.fetch_spans(shard, spans))


class HeldSpans:
    """Parts of a shard in memory, which are their own ``OpenShard``.

    Args:
        spans: in order.
        parts: their bytes; shorter where the shard is cut.
    """

    is_whole = False

    def __init__(self, spans: Sequence[Span], parts: Sequence[bytes]) -> None:
        self._starts = [start for start, _ in spans]
        self._views = [memoryview(part) for part in parts]

    def open(self) -> Pin:
        """See ``Held``."""
        return self

    def again(self) -> OpenShard:
        """See ``Pin``."""
        return self

    def read(self, offset: int, num_bytes: int) -> memoryview:
        """See ``OpenShard``; what was not wanted is missing."""
        at = bisect_right(self._starts, offset) - 1
        if at < 0:
            return memoryview(b"")
        start = offset - self._starts[at]
        return self._views[at][start : start + num_bytes]

    def close(self) -> None:
        """See ``OpenShard``."""
