"""The global order and the cursor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.order import Cursor, EpochOrder, Groups, Int64, Part

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(sum)


def cursor(
    *, seed: int = 0, epoch: int = 0, window: int = 3, plan_hash: str = "ab", lanes: int = 1
) -> Cursor:
    """A cursor at the start of an epoch."""
    return Cursor(
        plan_hash=plan_hash, split="train", seed=seed, epoch=epoch, window=window, lanes=lanes
    )


def rows_of(sizes: list[int], place: Cursor) -> Int64:
    """All samples in the order that the cursor names."""
    return EpochOrder(np.array(sizes), place).samples(np.arange(sum(sizes)))


@given(
    sizes=SIZES,
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 50),
    window=st.integers(0, 5),
    lanes=st.integers(1, 5),
)
def test_every_sample_comes_exactly_once(
    sizes: list[int], seed: int, epoch: int, window: int, lanes: int
) -> None:
    """An epoch's order is a permutation of all samples, whatever shards, window and lanes."""
    rows = rows_of(sizes, cursor(seed=seed, epoch=epoch, window=window, lanes=lanes))
    assert np.array_equal(np.sort(rows), np.arange(sum(sizes)))


@given(sizes=SIZES, window=st.integers(0, 5), lanes=st.integers(1, 4), data=st.data())
def test_a_place_is_the_same_however_it_is_asked_for(
    sizes: list[int], window: int, lanes: int, data: st.DataObject
) -> None:
    """Places asked for one by one, in any order, hold what the whole order has there."""
    place = cursor(window=window, lanes=lanes)
    whole = rows_of(sizes, place)
    asked = data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=20))
    order = EpochOrder(np.array(sizes), place)
    assert [int(order.samples(np.array([at]))[0]) for at in asked] == whole[asked].tolist()


@given(sizes=SIZES, window=st.integers(0, 5), lanes=st.integers(1, 4))
def test_windows_hold_what_the_order_takes_between_their_ends(
    sizes: list[int], window: int, lanes: int
) -> None:
    """Each place lies in one window of its lane, whose shards hold its sample."""
    place = cursor(window=window, lanes=lanes)
    rows, shard_of_row = rows_of(sizes, place), np.repeat(np.arange(len(sizes)), sizes)
    windows = EpochOrder(np.array(sizes), place).windows(tuple(range(lanes)))
    for at, row in enumerate(rows):
        (mine,) = [w for w in windows if w.lane == at % lanes and w.first <= at <= w.last]
        assert shard_of_row[row] in mine.shards
    for one in windows:
        taken = {int(shard_of_row[row]) for row in rows[one.first : one.last + 1 : lanes]}
        assert taken == set(one.shards)
        assert len(one.shards) <= max(1, window)


@given(sizes=SIZES, lanes=st.integers(1, 4), start=st.integers(0, 40))
def test_windows_from_a_place_on_are_those_that_end_at_it_or_later(
    sizes: list[int], lanes: int, start: int
) -> None:
    """What ends before the place is left out, and nothing else."""
    order = EpochOrder(np.array(sizes), cursor(window=2, lanes=lanes))
    every = order.windows(tuple(range(lanes)))
    assert order.windows(tuple(range(lanes)), start) == [w for w in every if w.last >= start]


@given(sizes=SIZES, lanes=st.integers(1, 5))
def test_lanes_take_turns_and_are_of_equal_length(sizes: list[int], lanes: int) -> None:
    """Every lane has the same number of samples, or one more."""
    counts = np.bincount(np.arange(sum(sizes)) % lanes, minlength=lanes)
    order = EpochOrder(np.array(sizes), cursor(lanes=lanes))
    lengths = [
        sum((w.last - w.first) // lanes + 1 for w in order.windows((lane,)))
        for lane in range(lanes)
    ]
    assert lengths == counts.tolist()


@given(data=st.data())
def test_ranks_of_whole_lanes_take_the_same_lanes_in_every_step(data: st.DataObject) -> None:
    """Where the batch is a multiple of the lanes, and these of the ranks, no lane is shared."""
    world = data.draw(st.integers(1, 4))
    lanes = world * data.draw(st.integers(1, 3))
    batch = lanes // world * data.draw(st.integers(1, 3))
    start = data.draw(st.integers(0, 50))
    parts = [Part(rank=r, world_size=world, batch_size=batch, lanes=lanes) for r in range(world)]
    used = [set(part.lanes_used(start)) for part in parts]
    assert sorted(lane for lanes_of_rank in used for lane in lanes_of_rank) == list(range(lanes))
    for step in range(3):
        for part, mine in zip(parts, used, strict=True):
            places = part.positions(start + step * part.global_batch, 10**9)
            assert len(places) == batch
            assert set((places % lanes).tolist()) <= mine


def test_sequences_stay_together_when_they_are_shuffled_as_such() -> None:
    """The images of a group follow each other, and the groups are mixed."""
    sizes, starts = [9, 8], np.array([0, 3, 6, 9, 12, 15])
    order = EpochOrder(
        np.array(sizes), cursor(window=2), Groups(starts_G=starts, stay_together=True)
    )
    rows = order.samples(np.arange(17))
    groups = np.searchsorted(starts, rows, side="right")
    runs = groups[np.flatnonzero(np.diff(groups, prepend=0))]
    assert sorted(runs.tolist()) == [1, 2, 3, 4, 5, 6]
    assert runs.tolist() != [1, 2, 3, 4, 5, 6]
    assert all(np.all(np.diff(rows[groups == group]) == 1) for group in range(1, 7))


def test_images_of_a_sequence_keep_apart() -> None:
    """Of bursts of three in 1,200 images, batches of 256 hold twenty more than a plain shuffle."""
    groups = Groups(starts_G=np.arange(0, 2400, 3), stay_together=False)
    means = {}
    for name, grouped in (("apart", groups), ("plain", None)):
        order = EpochOrder(np.array([600] * 4), cursor(window=2), grouped)
        rows = order.samples(np.arange(2400))
        assert np.array_equal(np.sort(rows), np.arange(2400))
        firsts = range(0, 1200 - 256, 7)
        means[name] = np.mean([len(np.unique(rows[at : at + 256] // 3)) for at in firsts])
        assert np.bincount(rows[:400] % 3).min() > 100  # any frame may come first
    assert means["apart"] > means["plain"] + 20


def test_groups_of_any_sizes_are_spread_over_the_window() -> None:
    """Of n samples of a group, each nth of the window has one; single ones come anywhere."""
    sizes = np.array([1, 2, 5, 1, 3, 10, 2] * 30)
    starts = np.cumsum(sizes) - sizes
    groups = Groups(starts_G=starts, stay_together=False)
    num = int(sizes.sum())
    order = EpochOrder(np.array([num]), cursor(window=1), groups)
    place = np.argsort(order.samples(np.arange(num))) / num
    for start, size in zip(starts, sizes, strict=True):
        found = np.sort(place[start : start + size])
        assert np.all(np.abs(found - (np.arange(size) + 0.5) / size) < 0.5 / size + 0.05)


def test_the_order_is_decided_by_dataset_seed_and_epoch() -> None:
    """The same values give the same order; another seed, epoch, dataset, window or lanes not."""
    sizes = [20, 30, 10, 25]
    rows = rows_of(sizes, cursor())
    assert np.array_equal(rows, rows_of(sizes, cursor()))
    others = [cursor(seed=1), cursor(epoch=1), cursor(plan_hash="cd"), cursor(window=2)]
    others.append(cursor(lanes=2))
    assert not any(np.array_equal(rows, rows_of(sizes, other)) for other in others)


def test_the_order_never_changes_between_releases() -> None:
    """The order of a known cursor is pinned: a checkpoint of today resumes in years."""
    assert rows_of([3, 0, 4, 2], cursor(window=2)).tolist() == PINNED
    assert rows_of([3, 0, 4, 2], cursor(window=2, lanes=2)).tolist() == PINNED_LANES
    assert rows_of([3, 2], cursor(window=0)).tolist() == [0, 1, 2, 3, 4]


PINNED = [1, 7, 8, 2, 0, 5, 6, 4, 3]
PINNED_LANES = [7, 3, 1, 4, 8, 6, 0, 5, 2]


@settings(max_examples=1000, deadline=None)
@given(data=st.data())
def test_resume_on_any_hardware_loses_and_repeats_nothing(data: st.DataObject) -> None:
    """Any ranks and batch sizes between saves: the samples handed out are the order itself."""
    num_samples = data.draw(st.integers(1, 200))
    order = np.arange(num_samples)
    consumed, handed_out = 0, []
    while consumed < num_samples:
        world = data.draw(st.integers(1, 4))
        batch = data.draw(st.integers(1, 9))
        lanes = data.draw(st.integers(1, 5))
        parts = [
            Part(rank=rank, world_size=world, batch_size=batch, lanes=lanes)
            for rank in range(world)
        ]
        num_steps = {part.num_steps(num_samples - consumed, drop_last=False) for part in parts}
        assert len(num_steps) == 1
        stop = data.draw(st.integers(1, num_steps.pop()))
        for step in range(stop):
            start = consumed + step * parts[0].global_batch
            places = np.concatenate([part.positions(start, num_samples) for part in parts])
            handed_out.append(order[np.sort(places)])
        consumed = min(num_samples, consumed + stop * parts[0].global_batch)
    assert np.array_equal(np.concatenate(handed_out), order)


@given(left=st.integers(0, 1000), world=st.integers(1, 8), batch=st.integers(1, 40))
def test_training_drops_less_than_one_global_batch(left: int, world: int, batch: int) -> None:
    """Training takes every full global batch; evaluation one more for what is left."""
    part = Part(rank=0, world_size=world, batch_size=batch)
    dropped = left - part.num_steps(left, drop_last=True) * world * batch
    assert 0 <= dropped < world * batch
    padded = part.num_steps(left, drop_last=False) * world * batch - left
    assert 0 <= padded < world * batch


def test_a_cursor_of_another_order_is_refused() -> None:
    """A state from another dataset, seed or window is named, not silently taken."""
    state = cursor().moved(8).state()
    assert cursor().resumed(state).num_consumed == 8
    with pytest.raises(ConfigError, match="seed of the loader's state is 0"):
        cursor(seed=1).resumed(state)
    with pytest.raises(ConfigError, match="plan_hash"):
        cursor(plan_hash="cd").resumed(state)


def test_impossible_parts_are_refused() -> None:
    """A rank outside the world or an empty batch is refused when the part is built."""
    with pytest.raises(ConfigError, match="rank is 2"):
        Part(rank=2, world_size=2, batch_size=1)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        Part(batch_size=0)
