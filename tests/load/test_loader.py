"""Batches: right samples, right pixels, exact resume."""

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError, ShardError
from serengeti_etl.load.loader import Batch, LoaderSettings, ShardLoader
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
    before = threading.active_count()
    with ShardLoader(dataset, split="train", batch_size=2, settings=SETTINGS) as loader:
        next(iter(loader))
        assert threading.active_count() > before
    wait_for(lambda: threading.active_count() <= before, "the end of all threads")


def test_a_batch_larger_than_the_split_is_refused(dataset: Dataset) -> None:
    """An epoch without a single batch is an error that says what batch size would do."""
    with pytest.raises(ConfigError, match="at most 13"):
        ShardLoader(dataset, split="train", batch_size=28, world_size=2, settings=SETTINGS)
    with pytest.raises(DatasetError, match="no split 'test'"):
        ShardLoader(dataset, split="test", batch_size=1, settings=SETTINGS)


def test_a_damaged_sample_is_named(tmp_path: Path) -> None:
    """A JPEG that cannot be decoded is an error with image, shard and offset."""
    dataset = make_dataset(str(tmp_path))
    row = dataset.index("val").to_pylist()[0]
    tar = tmp_path / "val" / "val-000000.tar"
    content = bytearray(tar.read_bytes())
    content[row["offset"] : row["offset"] + 300] = bytes(300)
    tar.write_bytes(content)
    settings, before = SETTINGS.for_evaluation(), threading.active_count()
    with (
        ShardLoader(str(tmp_path), split="val", batch_size=4, settings=settings) as loader,
        pytest.raises(ShardError, match=rf"PICT0000.*val-000000.*offset {row['offset']}"),
    ):
        list(loader)
    wait_for(lambda: threading.active_count() <= before, "the end of all threads")


def test_a_cut_tar_is_named(tmp_path: Path) -> None:
    """A tar that ends too early is an error, never fewer samples."""
    make_dataset(str(tmp_path))
    tar = tmp_path / "val" / "val-000001.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    settings = SETTINGS.for_evaluation()
    with (
        ShardLoader(str(tmp_path), split="val", batch_size=4, settings=settings) as loader,
        pytest.raises(ShardError, match="val-000001"),
    ):
        list(loader)


def test_crops_differ_between_epochs_and_stay_light(dataset: Dataset) -> None:
    """Training crops keep 65 % of the area and are drawn anew for each epoch."""
    with ShardLoader(dataset, split="train", batch_size=27, settings=SETTINGS) as loader:
        pixels = {}
        for epoch in range(2):
            (batch,) = list(loader)
            pixels[epoch] = dict(zip(batch.image_ids, batch.images_BCHW, strict=True))
    same = [torch.equal(pixels[0][name], pixels[1][name]) for name in pixels[0]]
    assert sum(same) == 0
