"""Which shard to bring next and which to drop: pure arithmetic over sizes and the order of need."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

MAX_SHARDS_AHEAD = 64
"""However small they are: enough for any link, and the arithmetic stays cheap."""


class ReadAhead:
    """Keeps what is at hand within a size, and what was brought before its need within another.

    A shard is *at hand* from the moment that it is asked for, *in use* between ``begin`` and
    ``end``, and *ahead* while it is at hand but was not begun in this epoch.

    Args:
        sizes: bytes to be read to bring each shard.
        held_sizes: bytes that each shard takes up once it is brought; 0 for local files.
        limit_bytes: bound of what is held at once; shards in use alone may exceed it.
        ahead_bytes: bound of what is ahead; ``MAX_SHARDS_AHEAD`` bounds it as well.
    """

    def __init__(
        self, sizes: Sequence[int], held_sizes: Sequence[int], limit_bytes: int, ahead_bytes: int
    ) -> None:
        self._sizes, self._held_sizes = sizes, held_sizes
        self._limit, self._ahead = limit_bytes, ahead_bytes
        self._order: tuple[int, ...] = ()
        self._place: dict[int, int] = {}
        self._next = 0
        self._uses: Counter[int] = Counter()
        self._at_hand: set[int] = set()
        self._begun: set[int] = set()

    @property
    def held_bytes(self) -> int:
        """Size of what is at hand."""
        return sum(self._held_sizes[shard] for shard in self._at_hand)

    @property
    def num_ahead_bytes(self) -> int:
        """Size of what is ahead."""
        return sum(self._sizes[shard] for shard in self._at_hand - self._begun)

    def schedule(self, shards: Iterable[int]) -> None:
        """Forget the old order; what is not in the new one and not in use is not needed."""
        self._order = tuple(shards)
        self._place = {shard: place for place, shard in enumerate(self._order)}
        self._next = 0
        self._begun = set(self._uses)

    def begin(self, shard: int) -> None:
        """The shard is used by one batch more."""
        self._uses[shard] += 1
        self._begun.add(shard)

    def end(self, shard: int) -> None:
        """The shard is used by one batch less."""
        self._uses[shard] -= 1
        if self._uses[shard] <= 0:
            del self._uses[shard]

    def release(self, shard: int) -> None:
        """The shard is not needed again in this epoch."""
        self._place.pop(shard, None)

    def is_in_use(self, shard: int) -> bool:
        """True between ``begin`` and ``end``."""
        return shard in self._uses

    def add(self, shard: int) -> None:
        """The shard is at hand now, whatever the bounds say."""
        self._at_hand.add(shard)

    def drop(self, shard: int) -> None:
        """The shard is no longer at hand; it may be brought ahead again."""
        self._at_hand.discard(shard)
        if shard not in self._begun:
            self._next = min(self._next, self._place.get(shard, self._next))

    def take_next(self) -> int | None:
        """The next shard to bring ahead, now at hand; None if there is none, or no room for it."""
        while self._next < len(self._order):
            shard = self._order[self._next]
            is_due = shard in self._place and shard not in self._begun
            if is_due and shard not in self._at_hand:
                if not self._has_room(shard):
                    return None
                self._at_hand.add(shard)
                return shard
            self._next += 1
        return None

    def distance(self, shard: int) -> float | None:
        """How far off the next need is; infinite for none; None for what is in use."""
        if shard in self._uses:
            return None
        if shard not in self._place:
            return math.inf
        return -1 if shard in self._begun else self._place[shard]

    def surplus(self, brought: Collection[int]) -> list[int]:
        """Those of ``brought`` to drop: all not needed again, and the farthest above the limit."""
        surplus, held = [], self.held_bytes
        idle = ((self.distance(shard), shard) for shard in brought)
        for distance, shard in sorted(
            ((far, shard) for far, shard in idle if far is not None), reverse=True
        ):
            is_over = held > self._limit and self._held_sizes[shard] > 0
            if is_over or distance == math.inf:
                surplus.append(shard)
                held -= self._held_sizes[shard]
        return surplus

    def _has_room(self, shard: int) -> bool:
        is_near = self.num_ahead_bytes + self._sizes[shard] <= self._ahead
        is_near &= len(self._at_hand - self._begun) < MAX_SHARDS_AHEAD
        return is_near and self.held_bytes + self._held_sizes[shard] <= self._limit
