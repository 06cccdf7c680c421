"""The global order and the cursor."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.order import Cursor, Part, epoch_order

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(sum)


def cursor(*, seed: int = 0, epoch: int = 0, window: int = 3, plan_hash: str = "ab") -> Cursor:
    """A cursor at the start of an epoch."""
    return Cursor(plan_hash=plan_hash, split="train", seed=seed, epoch=epoch, window=window)


@given(sizes=SIZES, seed=st.integers(0, 2**40), epoch=st.integers(0, 50), window=st.integers(0, 5))
def test_every_sample_comes_exactly_once(
    sizes: list[int], seed: int, epoch: int, window: int
) -> None:
    """An epoch's order is a permutation of all samples, whatever the shards and the window."""
    order = epoch_order(np.array(sizes), cursor(seed=seed, epoch=epoch, window=window))
    assert np.array_equal(np.sort(order.rows_N), np.arange(sum(sizes)))
    assert np.array_equal(np.sort(order.shards_S), np.arange(len(sizes)))


@given(sizes=SIZES, window=st.integers(1, 5))
def test_windows_are_used_up_one_after_another(sizes: list[int], window: int) -> None:
    """Samples of a later window never come before those of an earlier one."""
    order = epoch_order(np.array(sizes), cursor(window=window))
    shard_of_row = np.repeat(np.arange(len(sizes)), sizes)
    place = np.argsort(order.shards_S)
    windows = place[shard_of_row[order.rows_N]] // window
    assert np.all(np.diff(windows) >= 0)


def test_the_order_is_decided_by_dataset_seed_and_epoch() -> None:
    """The same values give the same order; another seed, epoch, dataset or window another one."""
    sizes = np.array([20, 30, 10, 25])
    rows = epoch_order(sizes, cursor()).rows_N
    assert np.array_equal(rows, epoch_order(sizes, cursor()).rows_N)
    others = [cursor(seed=1), cursor(epoch=1), cursor(plan_hash="cd"), cursor(window=2)]
    assert not any(np.array_equal(rows, epoch_order(sizes, other).rows_N) for other in others)


def test_the_order_never_changes_between_releases() -> None:
    """The order of a known cursor is pinned: a checkpoint of today resumes in years."""
    rows = epoch_order(np.array([3, 0, 4, 2]), cursor(window=2)).rows_N
    assert rows.tolist() == PINNED
    assert epoch_order(np.array([3, 2]), cursor(window=0)).rows_N.tolist() == [0, 1, 2, 3, 4]


PINNED = [1, 7, 8, 2, 0, 5, 6, 4, 3]


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
        parts = [Part(rank=rank, world_size=world, batch_size=batch) for rank in range(world)]
        num_steps = {part.num_steps(num_samples - consumed, drop_last=False) for part in parts}
        assert len(num_steps) == 1
        stop = data.draw(st.integers(1, num_steps.pop()))
        for step in range(stop):
            places = np.concatenate([part.positions(consumed, step) for part in parts])
            handed_out.append(order[places[places < num_samples]])
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
