"""Batches: right samples, right pixels, exact resume."""

import dataclasses
import hashlib
import io
import pickle
import re
import threading
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.load.batch import Batch, BatchMemory
from serengeti_etl.load.device import Output, prepare
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.report import LoaderReport
from serengeti_etl.load.shard_source import ShardSource, SourceStats
from serengeti_etl.load.shards import open_source
from tests.dataset_factory import CLASSES, Recipe, jpeg_of, make_dataset
from tests.hosts import wait_for

SETTINGS = LoaderSettings(image_size=(48, 64), window=2, num_threads=2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Shards of 7, 0, 6, 9 and 5 training samples, and of 4 and 5 in val."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset")))


def ids(batches: list[Batch]) -> list[str]:
    """Image ids in the order in which they were handed out, without blanks."""
    return [name for batch in batches for name in batch.image_ids if name]


def test_an_epoch_hands_out_every_sample_once(dataset: Dataset) -> None:
    """Without a dropped tail, each epoch holds all samples, in another order each time."""
    settings = LoaderSettings(image_size=(48, 64), drop_last=False)
    with ShardLoader(dataset, split="train", batch_size=4, settings=settings) as loader:
        first, second = ids(list(loader)), ids(list(loader))
    expected = sorted(dataset.index("train", columns=["image_id"])["image_id"].to_pylist())
    assert sorted(first) == sorted(second) == expected
    assert first != second


def test_training_drops_the_tail_and_evaluation_pads_it(dataset: Dataset) -> None:
    """27 samples in batches of 4: six full ones in training; seven in evaluation, one blank."""
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        assert len(loader) == 6
        assert len(ids(list(loader))) == 24
    whole = SETTINGS.for_evaluation()
    with ShardLoader(dataset, split="train", batch_size=4, settings=whole) as loader:
        batches = list(loader)
    assert ids(batches) == dataset.index("train")["image_id"].to_pylist()
    last = batches[-1]
    assert last.mask_B.tolist() == [True, True, True, False]
    assert last.image_ids[-1] == last.seq_ids[-1] == ""
    assert not last.images_BCHW[-1].any()
    assert not last.targets_BC[-1].any()


def test_pixels_and_targets_are_those_of_the_shard(dataset: Dataset) -> None:
    """Evaluation images equal Pillow's decode of the JPEG; targets follow the labels."""
    rows = {row["image_id"]: row for row in dataset.index("val").to_pylist()}
    settings = SETTINGS.for_evaluation()
    with ShardLoader(dataset, split="val", batch_size=5, settings=settings) as loader:
        for batch in loader:
            assert batch.images_BCHW.dtype == torch.uint8
            assert batch.images_BCHW.shape == (5, 3, 48, 64)
            for place, name in enumerate(batch.image_ids[: int(batch.mask_B.sum())]):
                row = rows[name]
                jpeg = jpeg_of(row["labels"], name, Recipe())
                expected = np.asarray(Image.open(io.BytesIO(jpeg)))
                got = batch.images_BCHW[place].permute(1, 2, 0).numpy().astype(int)
                assert np.abs(got - expected).max() <= 2
                shown = [float(category in row["labels"]) for category in CLASSES]
                assert batch.targets_BC[place].tolist() == shown
                assert batch.seq_ids[place] == row["seq_id"]


def test_a_resumed_loader_goes_on_with_the_next_sample(dataset: Dataset) -> None:
    """A state between two batches, loaded with other threads and batches: the same rest."""
    whole = LoaderSettings(image_size=(48, 64), window=2, drop_last=False, num_threads=2)
    with ShardLoader(dataset, split="train", batch_size=4, settings=whole) as loader:
        loader.start_epoch(3)
        stream = iter(loader)
        head = [next(stream), next(stream)]
        state = loader.state_dict()
        assert state["num_consumed"] == 8  # though more are decoded already
        rest = list(stream)
        assert loader.state_dict() | {"epoch": 4, "num_consumed": 0} == loader.state_dict()
    other = LoaderSettings(image_size=(48, 64), window=2, drop_last=False, num_threads=1)
    with ShardLoader(dataset, split="train", batch_size=3, settings=other) as loader:
        loader.load_state_dict(state)
        resumed = list(loader)
    assert ids(resumed) == ids(rest)
    assert not set(ids(resumed)) & set(ids(head))
    # Crops and flips belong to the place in the order, so the very pixels are the same.
    pixels = [torch.cat([b.images_BCHW[b.mask_B] for b in half]) for half in (rest, resumed)]
    assert torch.equal(*pixels)


def test_ranks_share_each_global_batch(dataset: Dataset) -> None:
    """Two ranks of two together get what one rank of four gets, step by step."""
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        alone = [batch.image_ids for batch in loader]
    halves = []
    for rank in range(2):
        with ShardLoader(
            dataset, split="train", batch_size=2, rank=rank, world_size=2, settings=SETTINGS
        ) as loader:
            halves.append([batch.image_ids for batch in loader])
    assert [left + right for left, right in zip(*halves, strict=True)] == alone


@pytest.mark.parametrize("world_size", [1, 3])
def test_another_number_of_ranks_continues_the_same_order(
    dataset: Dataset, world_size: int
) -> None:
    """Two ranks stop after two steps; one or three go on: no sample twice, none missed."""
    settings = LoaderSettings(image_size=(48, 64), window=2, drop_last=False, num_threads=1)

    def part(rank: int, world_size: int, batch_size: int) -> ShardLoader:
        return ShardLoader(
            dataset,
            split="train",
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            settings=settings,
        )

    seen: list[str] = []
    states = []
    for rank in range(2):
        with part(rank, 2, 3) as loader:
            stream = iter(loader)
            seen += ids([next(stream), next(stream)])
            states.append(loader.state_dict())
    assert states[0] == states[1]
    num_steps = set()
    for rank in range(world_size):
        with part(rank, world_size, 2) as loader:
            loader.load_state_dict(states[0])
            batches = list(loader)
            num_steps.add(len(batches))
            seen += ids(batches)
    assert sorted(seen) == sorted(dataset.index("train")["image_id"].to_pylist())
    assert len(num_steps) == 1


def test_another_seed_gives_another_order(dataset: Dataset) -> None:
    """The seed decides the order, and the same seed gives it again."""
    orders = []
    for seed in (0, 0, 1):
        with ShardLoader(
            dataset, split="train", batch_size=4, seed=seed, settings=SETTINGS
        ) as loader:
            orders.append(ids(list(loader)))
    assert orders[0] == orders[1] != orders[2]


def test_leaving_a_loader_early_ends_its_threads(dataset: Dataset) -> None:
    """No decoding thread outlives an abandoned iteration."""
    before = set(threading.enumerate())  # with those of earlier loaders that have not ended yet
    with ShardLoader(dataset, split="train", batch_size=2, settings=SETTINGS) as loader:
        next(iter(loader))
        assert not before.issuperset(threading.enumerate())
    # They are told to end, and not waited for.
    wait_for(lambda: before.issuperset(threading.enumerate()), "the end of all threads")


def test_a_batch_larger_than_the_split_is_refused(dataset: Dataset) -> None:
    """An epoch without a single batch is an error that says what batch size would do."""
    with pytest.raises(ConfigError, match="at most 13"):
        ShardLoader(dataset, split="train", batch_size=28, world_size=2, settings=SETTINGS)
    with pytest.raises(DatasetError, match="no split 'test'"):
        ShardLoader(dataset, split="test", batch_size=1, settings=SETTINGS)


def test_crops_differ_between_epochs_and_stay_light(dataset: Dataset) -> None:
    """Training crops keep 65 % of the area and are drawn anew for each epoch."""
    with ShardLoader(dataset, split="train", batch_size=27, settings=SETTINGS) as loader:
        pixels = {}
        for epoch in range(2):
            (batch,) = list(loader)
            pixels[epoch] = dict(zip(batch.image_ids, batch.images_BCHW, strict=True))
    same = [torch.equal(pixels[0][name], pixels[1][name]) for name in pixels[0]]
    assert sum(same) == 0


def test_a_data_loader_gives_the_same_batches_in_the_same_order(dataset: Dataset) -> None:
    """Inside torch's DataLoader, with no, one or two processes: what a plain iteration gives."""
    settings = LoaderSettings(image_size=(48, 64), window=2, drop_last=False, num_threads=1)
    loader = ShardLoader(dataset, split="train", batch_size=4, settings=settings)
    plain = list(loader)
    for num_workers in (0, 1, 2):
        loader.start_epoch(0)
        wrapped = DataLoader(
            loader,
            batch_size=None,
            num_workers=num_workers,
            multiprocessing_context="forkserver" if num_workers else None,
        )
        found = list(wrapped)
        assert ids(found) == ids(plain)
        pixels = zip(plain, found, strict=True)
        assert all(torch.equal(one.images_BCHW, two.images_BCHW) for one, two in pixels)
    loader.close()


def test_the_place_behind_a_data_loader_is_told_by_counting(dataset: Dataset) -> None:
    """Workers move no cursor here: the place after so many batches is arithmetic."""
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        wrapped = iter(
            DataLoader(loader, batch_size=None, num_workers=1, multiprocessing_context="forkserver")
        )
        head = [next(wrapped), next(wrapped)]
        state = loader.state_dict(num_batches=2)
        del wrapped
        loader.load_state_dict(state)
        rest = list(loader)
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as other:
        assert ids(list(other)) == ids(head) + ids(rest)


def test_a_loader_can_be_sent_to_another_process(dataset: Dataset) -> None:
    """Pickled in the middle of an iteration, it goes on from its place over there."""
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        stream = iter(loader)
        next(stream)
        copy = pickle.loads(pickle.dumps(loader))  # noqa: S301 - our own
        rest = ids(list(stream))
    with copy:
        assert ids(list(copy)) == rest


def test_the_device_may_crop_and_resize(dataset: Dataset) -> None:
    """Whole photographs and their views come to what the CPU makes of them, nearly."""
    on_cpu = dataclasses.replace(SETTINGS, image_size=(24, 32))
    on_device = dataclasses.replace(on_cpu, resize_on="device")
    with ShardLoader(dataset, split="train", batch_size=4, settings=on_cpu) as loader:
        wanted = list(loader)
    with ShardLoader(dataset, split="train", batch_size=4, settings=on_device) as loader:
        found = list(loader)
    assert ids(found) == ids(wanted)
    for one, two in zip(wanted, found, strict=True):
        assert two.images_BCHW.shape == (4, 3, 48, 64)
        made = prepare(two.images_BCHW, two.sizes_N2, two.views, Output(image_size=(24, 32)))
        assert (made.float() - one.images_BCHW.float()).abs().mean() < 3


def test_the_device_may_decode(dataset: Dataset) -> None:
    """JPEG files come as they lie in the shards, and no pixels."""
    settings = dataclasses.replace(SETTINGS, resize_on="device", decode_on="device")
    sums = {row["image_id"]: row["sha256"] for row in dataset.index("train").to_pylist()}
    with ShardLoader(dataset, split="train", batch_size=4, settings=settings) as loader:
        for batch in loader:
            assert batch.images_BCHW.shape == (4, 3, 0, 0)
            for name, jpeg in zip(batch.image_ids, batch.jpegs, strict=True):
                assert hashlib.sha256(jpeg).hexdigest() == sums[name]


def test_batches_may_be_kept(dataset: Dataset) -> None:
    """Memory is used again only when nobody refers to it: kept batches keep their pixels."""
    settings = dataclasses.replace(SETTINGS, augment=None)
    with ShardLoader(dataset, split="train", batch_size=2, settings=settings) as loader:
        kept = [(batch.image_ids, batch.images_BCHW[:1]) for batch in loader]
        copies = {}
        loader.start_epoch(0)
        for batch in loader:
            copies[batch.image_ids] = batch.images_BCHW[:1].clone()
            del batch
    assert len(kept) == 13
    assert all(torch.equal(copies[names], images) for names, images in kept)


def test_memory_is_used_again_once_it_is_free() -> None:
    """A block that no tensor refers to any more is handed out again, others are not."""
    memory = BatchMemory(2, pin=False)
    first, block = memory.take((4, 4))
    place = block.ctypes.data
    view = first[1:]
    del first, block
    second, _ = memory.take((4, 4))
    assert second.data_ptr() != place
    del view
    third, _ = memory.take((4, 4))
    assert third.data_ptr() == place


class Spy:
    """A source that notes what it is told.

    Args:
        source: that does the work.
    """

    def __init__(self, source: ShardSource) -> None:
        self.source, self.told = source, list[tuple[str, tuple[int, ...]]]()

    def __getattr__(self, name: str) -> Any:
        if name not in {"schedule", "begin", "end", "release"}:
            return getattr(self.source, name)

        def note(shards: Iterable[int]) -> None:
            self.told.append((name, tuple(shards)))
            getattr(self.source, name)(self.told[-1][1])

        return note


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("world_size", [1, 2])
def test_shards_are_released_after_their_last_use(
    dataset: Dataset, lanes: int, world_size: int
) -> None:
    """What is used was scheduled, what was released is not used again, and all of it is."""
    settings = LoaderSettings(image_size=(24, 32), window=1, lanes=lanes, drop_last=False)
    spies: list[Spy] = []

    def spied(*args: Any) -> Spy:
        spies.append(Spy(open_source(*args)))
        return spies[-1]

    with (
        patch("serengeti_etl.load.loader.open_source", spied),
        ShardLoader(
            dataset, split="train", batch_size=3, world_size=world_size, settings=settings
        ) as loader,
    ):
        list(loader)
    (spy,) = spies
    scheduled = spy.told[0][1]
    released: list[int] = []
    for what, shards in spy.told[1:]:
        if what == "begin":
            assert not set(shards) & set(released)
            assert set(shards) <= set(scheduled)
        elif what == "release":
            released += shards
    assert sorted(released) == sorted(scheduled)


def test_a_report_says_where_the_time_goes(dataset: Dataset) -> None:
    """Samples are counted, stages add up to no more than threads had, and advice is given."""
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        assert loader.report().num_samples == 0
        list(loader)
        report = loader.report()
    assert report.num_samples == 24
    assert report.num_replaced == 0
    assert 0 < report.seconds_waited <= report.seconds
    assert report.seconds_decoding <= report.num_threads * report.seconds
    assert report.advice() in report.text()


def test_impossible_settings_are_refused() -> None:
    """What cannot be is refused when the settings are built, by its name."""
    with pytest.raises(ConfigError, match="lanes is 0"):
        LoaderSettings(lanes=0)
    with pytest.raises(ConfigError, match="resize_on, decode_on is"):
        LoaderSettings(decode_on="device")
    with pytest.raises(ConfigError, match="num_ahead is 0"):
        LoaderSettings(num_ahead=0)


REPORT = LoaderReport(
    num_samples=100,
    num_replaced=0,
    num_threads=4,
    resizes=True,
    seconds=10.0,
    seconds_waited=5.0,
    seconds_for_shards=1.0,
    seconds_reading=1.0,
    seconds_decoding=36.0,
    num_ahead=2,
    num_ready=1.25,
    least_ready=0,
    source=SourceStats(num_bytes_fetched=100 * 1024 * 1024),
)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, 'bound by decoding: 50 % of the time waited.*3.7 of 4 threads.*10 MB/s.*"device"'),
        ({"resizes": False}, "bound by decoding.* smaller photographs would help"),
        ({"seconds_waited": 0.1}, "keeps up: 1 % of the time"),
        ({"seconds_decoding": 2.0, "seconds_for_shards": 30.0}, "bound by the network or disk"),
        ({"seconds_decoding": 20.0}, "held up at times"),
    ],
)
def test_advice_names_what_holds_the_consumer_up(changes: dict[str, Any], advice: str) -> None:
    """Decoding, the network, neither, or nothing: one sentence with the figures behind it."""
    assert re.search(advice, dataclasses.replace(REPORT, **changes).advice())
