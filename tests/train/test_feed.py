"""Batches on their way to the network, and the waiting for them."""

import time
from collections.abc import Iterator

import pytest
import torch

from serengeti_etl.load.augment import Augment
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.device import Output
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.ready import ReadyBatches
from serengeti_etl.train.feed import Clock, on_device
from tests.dataset_factory import make_dataset

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training images of 48x64 px."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


def batches_of(dataset: str, settings: LoaderSettings) -> Iterator[Batch]:
    with ShardLoader(dataset, split="train", batch_size=9, settings=settings) as loader:
        yield from loader


def test_both_places_give_the_same_pictures(dataset: str) -> None:
    """Cropped by the loader or where the network is, even at the photographs' own size: alike."""
    for size in ((32, 40), (48, 64)):
        augment = Augment(min_area=0.4)
        here = LoaderSettings(image_size=size, augment=augment)
        there = LoaderSettings(image_size=size, augment=augment, resize_on="device")
        pairs = zip(
            on_device(batches_of(dataset, here), CPU),
            on_device(batches_of(dataset, there), CPU, Output(image_size=size)),
            strict=True,
        )
        for own, other in pairs:
            assert own.image_ids == other.image_ids
            assert torch.equal(own.targets_BC, other.targets_BC)
            far_BCHW = (own.images_BCHW.float() - other.images_BCHW.float()).abs()
            assert far_BCHW.mean() < 1


def test_the_clock_tells_waiting_from_work(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in next() is waiting, time of the consumer is not; images are those of all ranks."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    ready = list(batches_of(dataset, LoaderSettings(image_size=(32, 40))))

    def slow() -> Iterator[Batch]:
        for batch in ready:
            now[0] += 3
            yield batch

    clock = Clock()
    for _ in clock.timed(slow()):
        now[0] += 1
    assert clock.read(num_ranks=2) == {"images_per_second": 2 * 27 / 12, "data_wait": 0.75}
    now[0] += 1
    assert clock.read(num_ranks=2) == {"images_per_second": 0, "data_wait": 0}
    depths = ReadyBatches()
    clock = Clock(depths)
    now[0] += 1
    assert "ready" not in clock.read(num_ranks=1)
    for _ in range(3):
        depths.note([[], []])
    depths.note([])
    now[0] += 1
    assert clock.read(num_ranks=1)["ready"] == 1.5
