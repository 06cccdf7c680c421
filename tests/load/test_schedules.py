"""Law 6 under a thousand random schedules: one order, whatever the hardware does."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.load.epoch import Epoch
from serengeti_etl.load.order import Cursor, Int64, Part
from serengeti_etl.load.selection import Frames, Selection
from serengeti_etl.load.table import SampleTable
from tests.load.table_factory import draw_table

FRAMES: st.SearchStrategy[Frames] = st.sampled_from(["all", "one", "sequence"])
WEIGHTS = st.sampled_from([None, "balanced", {"zebra": 3.0, "empty": 0.2}])


@st.composite
def tables(draw: st.DrawFn) -> SampleTable:
    """Shards, some of them empty, and a selection of them."""
    sizes = draw(st.lists(st.integers(0, 15), min_size=1, max_size=8).filter(sum))
    selection = Selection(frames=draw(FRAMES), max_frames=draw(st.integers(1, 3)))
    return draw_table(sizes, selection, seed=draw(st.integers(0, 99)))


@st.composite
def cursors(draw: st.DrawFn) -> Cursor:
    """The start of any epoch in any order."""
    return Cursor(
        plan_hash="ab",
        split="train",
        seed=draw(st.integers(0, 99)),
        epoch=draw(st.integers(0, 9)),
        window=draw(st.integers(0, 4)),
        lanes=draw(st.integers(1, 6)),
    )


def workers_share(starts: range, num_workers: int) -> list[int]:
    """Starts of steps in the order in which a DataLoader of so many processes hands them out."""
    shares = [list(starts)[number::num_workers] for number in range(num_workers)]
    return [shares[step % num_workers][step // num_workers] for step in range(len(starts))]


@settings(max_examples=1000, deadline=None)
@given(table=tables(), cursor=cursors(), data=st.data())
def test_any_schedule_hands_out_the_one_order(
    table: SampleTable, cursor: Cursor, data: st.DataObject
) -> None:
    """Ranks, batches, workers, what was decoded ahead and lost: each sample once, same order."""
    grouped = data.draw(st.booleans())
    order = Epoch(table, cursor, keep_sequences=grouped).images(np.arange(len(table)))
    handed_out: list[Int64] = []
    while cursor.num_consumed < len(table):
        world, batch = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
        epoch = Epoch(table, cursor, keep_sequences=grouped)  # a new process
        parts = [
            Part(rank=rank, world_size=world, batch_size=batch, lanes=cursor.lanes)
            for rank in range(world)
        ]
        left = len(table) - cursor.num_consumed
        num_steps = {part.num_steps(left, drop_last=False) for part in parts}
        assert len(num_steps) == 1
        size = parts[0].global_batch
        steps = range(cursor.num_consumed, cursor.num_consumed + num_steps.pop() * size, size)
        starts = workers_share(steps, data.draw(st.integers(1, 3)))
        assert starts == list(steps)
        num_done = data.draw(st.integers(1, len(starts)))  # killed, with others decoded ahead
        for start in starts[:num_done]:
            mine = [part.positions(start, len(table)) for part in parts]
            assert all(len(one) <= batch for one in mine)
            images = np.concatenate([epoch.images(one) for one in mine])
            handed_out.append(images[np.argsort(np.concatenate(mine))])
        cursor = Cursor(**_plain(cursor)).moved(min(left, num_done * size))
    assert np.array_equal(np.concatenate(handed_out), order)
    _check_exactly_once(table, order)


def _plain(cursor: Cursor) -> dict[str, Any]:
    return dict(cursor.state())


def _check_exactly_once(table: SampleTable, order_MF: Int64) -> None:
    """Every image, or one or the first of every sequence, and nothing twice."""
    shown = order_MF[order_MF >= 0]
    assert len(np.unique(shown)) == len(shown)
    sequences_N = table.images.sequences_N
    if table.selection.frames == "all":
        assert len(shown) == len(table.images)
    else:
        assert np.array_equal(np.unique(sequences_N[shown]), np.unique(sequences_N))


@settings(max_examples=200, deadline=None)
@given(table=tables(), cursor=cursors(), weights=WEIGHTS)
def test_a_weighted_epoch_is_one_order_too(
    table: SampleTable, cursor: Cursor, weights: Any
) -> None:
    """Each sample comes as often as its weight says, rounded, wherever the epoch is resumed."""
    chosen = Selection(frames=table.selection.frames, weights=weights)
    weighted = SampleTable(table.images, chosen)
    epoch = Epoch(weighted, cursor, vary=False)
    assert epoch.num_samples == len(weighted)
    order_MF = epoch.images(np.arange(len(weighted)))
    first = weighted.first_images(np.arange(len(weighted)))
    counts = np.array([(order_MF[:, 0] == image).sum() for image in first])
    assert np.all(np.abs(counts - weighted.weights()) < 1 + 1e-6)
    half = np.arange(len(weighted) // 2, len(weighted))
    assert np.array_equal(Epoch(weighted, cursor, vary=False).images(half), order_MF[half])


def test_the_frame_that_shows_a_sequence_changes_with_seed_and_epoch() -> None:
    """At the same place, other seeds and epochs show other frames, and the same ones the same."""
    table = draw_table([60], Selection(frames="one"))

    def shown(seed: int, epoch: int) -> list[int]:
        cursor = Cursor(plan_hash="ab", split="train", seed=seed, epoch=epoch, window=0)
        return [int(image) for image in Epoch(table, cursor).images(np.arange(len(table)))[:, 0]]

    assert shown(0, 0) == shown(0, 0)
    assert len({tuple(shown(seed, epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_over_many_epochs_a_sample_comes_as_often_as_its_weight_says() -> None:
    """A weight of 0.4 is four epochs of ten, not always the same ones left out."""
    table = draw_table([40], Selection(weights={"zebra": 3.0, "empty": 0.5}))
    counts = np.zeros(len(table))
    for number in range(200):
        cursor = Cursor(plan_hash="ab", split="train", seed=0, epoch=number, window=1)
        images = Epoch(table, cursor).images(np.arange(len(table)))[:, 0]
        counts += np.bincount(images, minlength=len(table))
    assert np.abs(counts / 200 - table.weights()).max() < 0.15
