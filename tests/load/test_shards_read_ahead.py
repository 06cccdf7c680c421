"""The arithmetic of reading ahead and dropping, against a simple model of what is needed."""

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serengeti_etl.load.read_ahead import MAX_SHARDS_AHEAD, ReadAhead

SIZES = (3, 1, 4, 1, 5, 9, 2, 6)
LOCAL = 7
"""A shard that takes up nothing once it is there."""

HELD_SIZES = tuple(0 if shard == LOCAL else size for shard, size in enumerate(SIZES))


class Epochs(RuleBasedStateMachine):
    """Batches begin and end, shards are released, epochs change, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.ahead = 12, 8
        self.plan = ReadAhead(SIZES, HELD_SIZES, self.limit, self.ahead)
        self.at_hand: set[int] = set()
        self.in_use: Counter[int] = Counter()
        self.to_come: list[int] = []
        self.needed: set[int] = set()

    def settle(self) -> None:
        """Drop and read ahead as a source does."""
        for gone in self.plan.surplus(self.at_hand):
            assert not self.in_use[gone]
            self.plan.drop(gone)
            self.at_hand.remove(gone)
        while (shard := self.plan.take_next()) is not None:
            # In order: all that is due before it is at hand already.
            due = [one for one in self.to_come if one not in self.at_hand]
            assert shard == due[0]
            self.at_hand.add(shard)
            ahead = sum(SIZES[one] for one in self.at_hand if one in self.to_come)
            held = sum(HELD_SIZES[one] for one in self.at_hand)
            assert ahead <= self.ahead
            assert held <= self.limit
        self.check_that_nothing_more_fits()

    def check_that_nothing_more_fits(self) -> None:
        """What comes next is at hand, or there is no room for it."""
        coming = next((one for one in self.to_come if one not in self.at_hand), None)
        if coming is not None:
            ahead = sum(SIZES[one] for one in self.at_hand if one in self.to_come)
            held = sum(HELD_SIZES[one] for one in self.at_hand)
            is_near = ahead + SIZES[coming] <= self.ahead
            assert not (is_near and held + HELD_SIZES[coming] <= self.limit)

    @rule(order=st.permutations(range(len(SIZES))), num=st.integers(0, len(SIZES)))
    def schedule(self, order: list[int], num: int) -> None:
        """Another epoch, or what is left of one."""
        self.to_come = [shard for shard in order[:num] if not self.in_use[shard]]
        self.needed = set(order[:num])
        self.plan.schedule(order[:num])
        self.settle()

    @rule(shard=st.integers(0, len(SIZES) - 1))
    def begin(self, shard: int) -> None:
        """A batch begins with a shard."""
        self.plan.begin(shard)
        self.plan.add(shard)
        self.at_hand.add(shard)
        self.in_use[shard] += 1
        self.to_come = [one for one in self.to_come if one != shard]
        self.settle()

    @precondition(lambda self: any(self.in_use.values()))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A batch that used a shard is done."""
        shard = data.draw(st.sampled_from(sorted(self.in_use.elements())))
        self.plan.end(shard)
        self.in_use[shard] -= 1
        self.settle()

    @rule(shard=st.integers(0, len(SIZES) - 1))
    def release(self, shard: int) -> None:
        """A shard is not needed again."""
        self.plan.release(shard)
        self.to_come = [one for one in self.to_come if one != shard]
        self.needed.discard(shard)
        self.settle()

    @rule(shard=st.integers(0, len(SIZES) - 1))
    def lose(self, shard: int) -> None:
        """Another process deletes a file."""
        if shard in self.at_hand and not self.in_use[shard]:
            self.plan.drop(shard)
            self.at_hand.remove(shard)
            self.settle()

    @invariant()
    def only_what_is_in_use_exceeds_the_limit(self) -> None:
        """All that is held beyond the limit is in use."""
        held = sum(HELD_SIZES[shard] for shard in self.at_hand)
        used = sum(HELD_SIZES[shard] for shard in set(self.in_use.elements()))
        assert held == self.plan.held_bytes
        assert held <= max(self.limit, used)

    @invariant()
    def what_is_not_needed_is_gone(self) -> None:
        """Nothing is kept that has no further use."""
        assert self.at_hand <= self.needed | set(self.in_use.elements())

    @invariant()
    def distances_follow_the_order(self) -> None:
        """None in use, infinite when not needed, else as they come."""
        far = [self.plan.distance(shard) for shard in self.to_come]
        assert far == sorted(far, key=lambda distance: distance or 0.0)
        for shard in range(len(SIZES)):
            distance = self.plan.distance(shard)
            assert (distance is None) == bool(self.in_use[shard])
            assert (distance == math.inf) == (not self.in_use[shard] and shard not in self.needed)


TestEpochs = Epochs.TestCase
TestEpochs.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    limit=st.integers(1, 40),
    ahead=st.integers(0, 40),
)
def test_an_epoch_in_order_brings_every_shard_once(
    sizes: list[int], limit: int, ahead: int
) -> None:
    """One shard after the other, released when done: each is brought once, as early as it fits."""
    plan = ReadAhead(sizes, sizes, limit, ahead)
    plan.schedule(range(len(sizes)))
    brought: Counter[int] = Counter()
    for number in range(len(sizes)):
        plan.begin(number)
        brought[number] += number not in brought
        plan.add(number)
        assert plan.surplus([shard for shard in brought if shard >= number]) == []
        while (coming := plan.take_next()) is not None:
            brought[coming] += 1
        if number + 1 < len(sizes):
            has_room = sizes[number] + sizes[number + 1] <= limit and sizes[number + 1] <= ahead
            assert has_room <= (number + 1 in brought)
        plan.end(number)
        plan.release(number)
        assert plan.surplus([number]) == [number]
        plan.drop(number)
    assert set(brought.values()) == {1}


@given(order=st.permutations(range(6)))
def test_above_the_limit_the_farthest_goes_first(order: list[int]) -> None:
    """What is read ahead for later makes room for what a batch needs now."""
    plan = ReadAhead([1] * 6, [1] * 6, limit_bytes=4, ahead_bytes=4)
    plan.schedule(order)
    taken = [plan.take_next() for _ in range(5)]
    assert taken == [*order[:4], None]
    plan.begin(order[5])
    plan.add(order[5])
    assert plan.surplus([*order[:4], order[5]]) == [order[3]]


def test_no_more_than_so_many_shards_are_ahead() -> None:
    """However small shards are, their number is bounded too."""
    plan = ReadAhead([1] * 200, [1] * 200, limit_bytes=1000, ahead_bytes=1000)
    plan.schedule(range(200))
    assert sum(plan.take_next() is not None for _ in range(200)) == MAX_SHARDS_AHEAD
    plan.begin(0)
    assert plan.take_next() == MAX_SHARDS_AHEAD
    assert plan.take_next() is None
