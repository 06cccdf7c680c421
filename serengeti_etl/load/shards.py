"""Shards brought in the background, ahead of need, by a few threads: ``open_source`` is the door.

The pieces, each in a room of its own: ``read_ahead`` says which shard comes next and which goes;
``local_shards``, ``memory_shards`` and ``cached_shards`` bring one; ``BackgroundSource`` here lets
them work, and hands out what they bring.
"""

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.load.bringer import Bringer
from serengeti_etl.load.cached_shards import CachedShards
from serengeti_etl.load.held_shards import Held, Pin
from serengeti_etl.load.local_shards import LocalShards
from serengeti_etl.load.memory_shards import MemoryShards
from serengeti_etl.load.read_ahead import ReadAhead
from serengeti_etl.load.shard_fetch import ShardFetcher, Span, closed
from serengeti_etl.load.shard_source import (
    CacheSettings,
    OpenShard,
    Shard,
    ShardSource,
    SourceStats,
)
from serengeti_etl.load.source_tally import SourceTally
from serengeti_etl.load.sparse_shards import SparseShards, Wanted, num_bytes_of, sparse_spans

NUM_BROUGHT_AT_ONCE = 4
"""Shards fetched or checked at the same time; one stream alone does not fill a link."""

_MAX_THREADS = 32  # with those that wait for another process
_NUM_TRIES = 4


def open_source(
    shards: Sequence[Shard], settings: CacheSettings, wanted: Wanted | None = None
) -> ShardSource:
    """The shards by number: local ones in place, others through a cache folder or memory.

    Args:
        shards: of one or several datasets.
        settings: where others are kept, and the bounds of it all.
        wanted: the samples that will be read of some shards, all samples of others. A shard of
            which little is wanted is never read whole, and says that it is not.
    """
    return BackgroundSource(shards, settings, sparse_spans(shards, wanted or {}))


@dataclass(eq=False, slots=True)
class _Slot:
    """A shard at hand.

    Attributes:
        was_ahead: no batch needed it when its bringing began.
        held: the shard, once it is there.
        pin: it, opened, as long as it is in use.
    """

    was_ahead: bool
    held: "Future[Held]" = field(default_factory=Future)
    pin: Pin | None = None


logger = logging.getLogger(__name__)


class BackgroundSource:
    """See ``ShardSource``, and ``Desk`` for what bringers ask of it.

    Args:
        shards: of one or several datasets.
        settings: where shards are kept, and the bounds of it all.
        spans: what to read of shards of which little is wanted.
    """

    def __init__(
        self, shards: Sequence[Shard], settings: CacheSettings, spans: dict[int, list[Span]]
    ) -> None:
        self._shards, self._tally, self._spans = shards, SourceTally(), spans
        self._fetcher = ShardFetcher(shards, self._tally, settings)
        self._memory: Bringer = MemoryShards(shards, self._fetcher)
        self._bringers = self._make_bringers(settings)
        sizes = [shard.info.num_bytes for shard in shards]
        for shard, these in spans.items():
            sizes[shard] = num_bytes_of(these)
        is_local = [isinstance(bringer, LocalShards) for bringer in self._bringers]
        held = [0 if local else size for size, local in zip(sizes, is_local, strict=True)]
        self._plan = ReadAhead(sizes, held, settings.limit_bytes, settings.ahead_bytes)
        self._lock = threading.Lock()
        self._slots: dict[int, _Slot] = {}
        self._wanted: deque[int] = deque()  # in use, and no thread brings them yet
        self._damaged: set[int] = set()
        self._num_running = 0
        self._is_closed = False
        self._pool = DaemonPool(_MAX_THREADS, "serengeti-shard")

    def schedule(self, shards: Sequence[int]) -> None:
        """See ``ShardSource``."""
        with self._lock:
            self._plan.schedule(int(shard) for shard in shards if self._has_samples(shard))
            self._settle()

    def begin(self, shards: Iterable[int]) -> None:
        """See ``ShardSource``."""
        with self._lock:
            for shard in shards:
                self._plan.begin(shard)
                self._slot(shard)
            self._settle()

    def end(self, shards: Iterable[int]) -> None:
        """See ``ShardSource``."""
        with self._lock:
            for shard in shards:
                self._end(shard)
            self._settle()

    def release(self, shards: Iterable[int]) -> None:
        """See ``ShardSource``."""
        with self._lock:
            for shard in shards:
                self._plan.release(shard)
            self._settle()

    def open(self, shard: int) -> OpenShard:
        """See ``ShardSource``."""
        with self._used(shard):
            for _ in range(_NUM_TRIES):
                opened = self._try_open(shard)
                if opened is not None:
                    return opened
            # Other processes delete it each time before it can be read.
            self._tally.add(num_bypassed=1)
            return self._bring(shard, self._memory).open()

    def stats(self) -> SourceStats:
        """See ``ShardSource``."""
        return self._tally.stats()

    def close(self) -> None:
        """See ``ShardSource``."""
        self._fetcher.close()
        self._pool.abandon()
        with self._lock:
            self._is_closed = True
            for shard, slot in self._slots.items():
                if not slot.held.done():
                    slot.held.set_exception(closed(self._shards[shard]))
                _unpin(slot)
            self._slots.clear()

    def is_in_use(self, shard: int) -> bool:
        """See ``Desk``."""
        with self._lock:
            return self._plan.is_in_use(shard)

    def distance(self, shard: int) -> float | None:
        """See ``Desk``."""
        with self._lock:
            return self._plan.distance(shard)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """See ``Desk``."""
        with self._lock:
            self._num_running -= 1
            self._start()
        try:
            yield
        finally:
            with self._lock:
                self._num_running += 1

    def _make_bringers(self, settings: CacheSettings) -> list[Bringer]:
        local = LocalShards(
            self._shards, self._tally, check=settings.check, sparse=self._spans.keys()
        )
        sparse = SparseShards(self._fetcher, self._spans)
        far = self._memory
        if settings.folder is not None:
            far = CachedShards(self._shards, settings, self._fetcher, far, self._tally)
        stores = {shard.store.url: shard.store for shard in self._shards}
        is_far = {url: store.local_path("") is None for url, store in stores.items()}
        return [
            local if not is_far[shard.store.url] else sparse if number in self._spans else far
            for number, shard in enumerate(self._shards)
        ]

    def _has_samples(self, shard: int) -> bool:
        return self._shards[shard].info.num_samples > 0

    @contextmanager
    def _used(self, shard: int) -> Iterator[None]:
        """Around opening a shard, which may be in no batch's use."""
        with self._lock:
            self._plan.begin(shard)
        try:
            yield
        finally:
            with self._lock:
                self._end(shard)

    # Below, all but the work of a thread is called with the lock held.

    def _slot(self, shard: int) -> _Slot:
        if self._is_closed:
            raise closed(self._shards[shard])
        if shard not in self._slots:
            self._plan.add(shard)
            self._slots[shard] = _Slot(was_ahead=False)
            self._wanted.append(shard)
        return self._slots[shard]

    def _end(self, shard: int) -> None:
        self._plan.end(shard)
        if shard in self._slots and not self._plan.is_in_use(shard):
            _unpin(self._slots[shard])

    def _drop(self, shard: int) -> None:
        _unpin(self._slots.pop(shard))
        self._plan.drop(shard)

    def _settle(self) -> None:
        """Drop what is not needed, bring what is, and what comes next as far as it fits."""
        brought = [shard for shard, slot in self._slots.items() if slot.held.done()]
        for shard in self._plan.surplus(brought):
            self._drop(shard)
        self._start()

    def _start(self) -> None:
        """Let threads begin: with what is in use, in the order of its begin, then ahead of need."""
        while self._num_running < NUM_BROUGHT_AT_ONCE and not self._is_closed:
            shard = self._wanted.popleft() if self._wanted else self._plan.take_next()
            if shard is None:
                return
            self._num_running += 1
            self._pool.submit(
                self._work, shard, self._slots.setdefault(shard, _Slot(was_ahead=True))
            )

    def _try_open(self, shard: int) -> OpenShard | None:
        """The shard, once it is there; None if it must be brought once more."""
        with self._lock:
            slot = self._slot(shard)
            self._start()
        with self._tally.timed("seconds_waiting"):
            error = slot.held.exception()  # waits
        with self._lock:
            is_current = self._slots.get(shard) is slot
            if error is None and is_current:
                with contextlib.suppress(FileNotFoundError):  # deleted or replaced by others
                    slot.pin = slot.pin or slot.held.result().open()
                    return slot.pin.again()
            if is_current:
                self._drop(shard)
        if error is None or (slot.was_ahead and not self._is_closed):
            return None
        raise error

    def _work(self, shard: int, slot: _Slot) -> None:
        """Bring a shard; the work of a thread."""
        with _Delivery(self, slot) as delivery:
            delivery.held = self._bring(shard, self._bringers[shard])

    def _bring(self, shard: int, bringer: Bringer) -> Held:
        """The shard; its damage is counted and told once. Without the lock held."""
        held = bringer.bring(shard, self)
        is_told = shard in self._damaged or shard in self._spans
        if not held.is_whole and not is_told:
            self._damaged.add(shard)
            self._tally.add(num_damaged=1)
            _warn(self._shards[shard])
        return held

    def delivered(self, slot: _Slot, held: Held | None, error: BaseException | None) -> None:
        """A thread has brought a shard, or failed; without the lock held."""
        with self._lock:
            self._num_running -= 1
            if not slot.held.done():  # else the source was closed
                if held is not None:
                    slot.held.set_result(held)
                else:
                    slot.held.set_exception(error or RuntimeError("nothing was brought"))
            self._settle()


class _Delivery:
    """The work of a thread as a context: what it brings, or raises, goes to who waits for it."""

    def __init__(self, source: BackgroundSource, slot: _Slot) -> None:
        self._source, self._slot = source, slot
        self.held: Held | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._source.delivered(self._slot, self.held, error)
        return True


def _warn(damaged: Shard) -> None:
    logger.warning(
        "Shard %s does not match its size or checksum in dataset.json; each of its samples is "
        "checked. Run `serengeti-etl verify %s`.",
        damaged.url,
        damaged.store.url,
    )


def _unpin(slot: _Slot) -> None:
    if slot.pin is not None:
        slot.pin.close()
        slot.pin = None
