"""The depth of a loader's queue when a batch is asked for."""

import threading
from collections.abc import Iterable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.reader import Got, SampleReader
from serengeti_etl.load.ready import ReadyBatches
from tests.dataset_factory import make_dataset

SETTINGS = LoaderSettings(image_size=(24, 32), num_threads=1, num_ahead=2)
NUM_ASKED = 4
"""Of six full batches: the first one finds no queue yet, the last finds nothing behind it."""


def tasks(text: str) -> list[list[Future[None]]]:
    """Batches, each with a task per letter: d for done."""
    batches = []
    for word in text.split():
        futures: list[Future[None]] = [Future() for _ in word]
        for letter, future in zip(word, futures, strict=True):
            if letter == "d":
                future.set_result(None)
        batches.append(futures)
    return batches


def test_batches_in_front_count_until_one_is_not_ready() -> None:
    """By hand, over two readings and the whole."""
    ready = ReadyBatches()
    assert (ready.whole.mean, ready.whole.least, ready.read().mean) == (None, None, None)
    for text in ("dd d", "dd dx dd", "x d", "dd d d"):
        ready.note(tasks(text))
    first = ready.read()
    assert (first.num_asked, first.num_ready, first.mean, first.least) == (4, 6, 1.5, 0)
    ready.note(tasks("d d"))
    assert (ready.read().mean, ready.read().mean) == (2, None)
    assert (ready.whole.num_asked, ready.whole.num_ready, ready.whole.least) == (5, 8, 0)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """Address of 27 training images."""
    return make_dataset(str(tmp_path)).store.url


def test_a_slow_consumer_finds_all_batches_ready(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who lets the loader work finds as many as it may decode ahead; the report says so."""
    begun: list[Future[Any]] = []
    submit = DaemonPool.submit

    def noted(self: DaemonPool, *task: Any) -> Future[Any]:
        begun.append(submit(self, *task))
        return begun[-1]

    monkeypatch.setattr(DaemonPool, "submit", noted)
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        assert "ready when asked for      none asked for yet" in loader.report().text()
        for _ in loader:
            wait(begun)
        report = loader.report()
        assert loader.ready.read().num_asked == NUM_ASKED
    assert (report.num_ready, report.least_ready) == (2, 2)
    assert "ready when asked for       2.0 of 2, at least 2" in report.text()


def test_a_fast_consumer_finds_none(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each batch is decoded only when it has been asked for, the queue is empty."""
    permits, num_asked = threading.Semaphore(1), [0]
    fill, note = SampleReader.fill, ReadyBatches.note

    def held_up(self: SampleReader, wishes: Any) -> list[Got]:
        permits.acquire()
        return fill(self, wishes)

    def noted(self: ReadyBatches, batches: Iterable[Iterable[Future[Any]]]) -> None:
        note(self, batches)
        num_asked[0] += 1
        permits.release(1 if num_asked[0] < NUM_ASKED else 10)

    monkeypatch.setattr(SampleReader, "fill", held_up)
    monkeypatch.setattr(ReadyBatches, "note", noted)
    with ShardLoader(dataset, split="train", batch_size=4, settings=SETTINGS) as loader:
        assert len(list(loader)) == 6
        assert (loader.ready.whole.num_asked, loader.ready.whole.num_ready) == (NUM_ASKED, 0)
