"""Batches of one split in one global order, decoded ahead by a few threads, resumable anywhere.

A chain of small steps; the comments in ``_batches`` give the type of the stream between them.
"""

import dataclasses
import os
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from serengeti_etl.config import MIB
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import ConfigError, require
from serengeti_etl.load.augment import Augment, Views, draw_views, whole_views
from serengeti_etl.load.decode import use_one_core
from serengeti_etl.load.order import Cursor, Int32, Int64, Part, epoch_order
from serengeti_etl.load.reader import SampleReader
from serengeti_etl.load.shards import open_shards
from serengeti_etl.load.table import SampleTable, read_samples

NUM_PREFETCHED = 4
"""Batches decoded ahead of the consumer; also the bound on the loader's memory."""

SAMPLES_PER_TASK = 8
"""Photographs that one thread decodes before it takes the next piece of work."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSettings:
    """How batches are made; none of it but ``window`` changes the order of samples.

    Attributes:
        image_size: height and width of the images in px; photographs are stretched to it, so
            keep their 3:4 unless something speaks against it.
        window: shards mixed with each other; 0 keeps the order of the dataset.
        augment: light random crops and flips.
        drop_last: leave out the samples after the last full global batch of an epoch; otherwise
            the last batch is filled up with masked blanks.
        num_threads: threads that decode; None means as many as the process may use cores.
        cache_folder: local folder for the shards of a bucket.
        cache_bytes: size in bytes that the folder is kept within.
        pin_memory: batches in page-locked memory, for copies to a GPU that do not block.
    """

    image_size: tuple[int, int] = (288, 384)
    window: int = 4
    augment: bool = True
    drop_last: bool = True
    num_threads: int | None = None
    cache_folder: str = "~/.cache/serengeti-etl"
    cache_bytes: int = 8192 * MIB
    pin_memory: bool = False

    def __post_init__(self) -> None:
        size = self.image_size
        positive = len(size) == 2 and all(side > 0 for side in size)  # noqa: PLR2004
        require(positive, "image_size", size, "(height, width) in px")
        require(self.window >= 0, "window", self.window, "zero or positive")
        threads = self.num_threads
        require(threads is None or threads > 0, "num_threads", threads, "positive or None")
        require(self.cache_bytes > 0, "cache_bytes", self.cache_bytes, "positive")

    def for_evaluation(self) -> "LoaderSettings":
        """The same, but whole photographs in the order of the dataset, none left out."""
        return dataclasses.replace(self, window=0, augment=False, drop_last=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one rank gets in one step.

    Attributes:
        images_BCHW: uint8 RGB, (batch_size, 3, height, width), channels last in memory.
        targets_BC: float32, (batch_size, num_classes), 1 for each category that is shown.
        mask_B: bool, (batch_size,); False for blanks that fill up the last batch.
        image_ids: one per sample; "" for blanks.
        seq_ids: one per sample; "" for blanks.
    """

    images_BCHW: torch.Tensor
    targets_BC: torch.Tensor
    mask_B: torch.Tensor
    image_ids: tuple[str, ...]
    seq_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A batch that is being decoded."""

    batch: Batch
    shards: tuple[int, ...]
    tasks: tuple[Future[None], ...]


class ShardLoader:
    """Batches of one split of a dataset, in an order that only dataset, seed and epoch decide.

    ``iter(loader)`` yields what is left of the current epoch, then moves to the next epoch.
    ``state_dict()`` between two batches names exactly the samples handed out so far; any loader of
    the same dataset, split, seed and window continues from it, with another batch size, number of
    ranks or threads. Leave it with ``close()`` or a ``with`` block to end its threads.

    Args:
        url: a dataset's folder or bucket prefix, or an open ``Dataset``.
        split: such as ``train``.
        batch_size: samples per batch of this rank.
        seed: another seed gives another order and other crops.
        rank: number of this rank, from 0.
        world_size: ranks in all; each takes its slice of every global batch.
        settings: the rest.

    Raises:
        ConfigError: a setting is impossible, or an epoch would hold no full batch.
        DatasetError: there is no finished dataset, or not this split.
    """

    def __init__(  # noqa: PLR0913 - the public signature of the design
        self,
        url: str | Dataset,
        *,
        split: str,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        settings: LoaderSettings | None = None,
    ) -> None:
        self.settings = settings or LoaderSettings()
        self.dataset = open_dataset(url) if isinstance(url, str) else url
        self._part = Part(rank=rank, world_size=world_size, batch_size=batch_size)
        self._cursor = Cursor(
            plan_hash=self.dataset.plan_hash, split=split, seed=seed, window=self.settings.window
        )
        self.samples: SampleTable = read_samples(self.dataset, split)
        self._check_size()
        self._reader: SampleReader | None = None
        self._running: Generator[Batch, None, None] | None = None

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._part.num_steps(len(self.samples), drop_last=self.settings.drop_last)

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self._cursor.epoch

    @property
    def num_steps_left(self) -> int:
        """Steps left in the current epoch."""
        left = len(self.samples) - self._cursor.num_consumed
        return self._part.num_steps(left, drop_last=self.settings.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        self._stop()
        self._running = self._batches()
        return self._running

    def state_dict(self) -> dict[str, Any]:
        """The place after the last batch handed out, as plain values."""
        return self._cursor.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the place that another loader's ``state_dict()`` named.

        Raises:
            ConfigError: the state belongs to another dataset, split, seed or window.
        """
        self._stop()
        self._cursor = self._cursor.resumed(state)

    def start_epoch(self, epoch: int) -> None:
        """Go to the first sample of an epoch."""
        self._stop()
        self._cursor = dataclasses.replace(self._cursor, epoch=epoch, num_consumed=0)

    def close(self) -> None:
        """End all threads; the loader may be used again."""
        self._stop()
        if self._reader is not None:
            self._reader.files.close()
            self._reader = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_size(self) -> None:
        num_samples, needed = len(self.samples), self._part.global_batch
        if self.settings.drop_last and num_samples < needed:
            raise ConfigError(
                f"batch_size is {self._part.batch_size} on {self._part.world_size} rank(s), but "
                f"split {self._cursor.split} of {self.dataset.store.url} has only {num_samples} "
                f"samples: an epoch would hold no batch; it must be at most "
                f"{num_samples // self._part.world_size}, or drop_last off"
            )

    def _stop(self) -> None:
        """End the iteration that runs now, if any."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _open_reader(self) -> SampleReader:
        if self._reader is None:
            shards, settings = self.dataset.shards(self._cursor.split), self.settings
            store = self.dataset.store
            files = open_shards(store, shards, settings.cache_folder, settings.cache_bytes)
            self._reader = SampleReader(self.samples, shards, store.url, files)
        return self._reader

    def _batches(self) -> Generator[Batch, None, None]:
        reader, start = self._open_reader(), self._cursor
        order = epoch_order(self.samples.shard_sizes_S, start)
        reader.files.schedule(order.shards_S.tolist(), start.window)
        pool = ThreadPoolExecutor(
            self._num_threads(), thread_name_prefix="serengeti-decode", initializer=use_one_core
        )
        pending: deque[_Work] = deque()
        try:
            # step numbers
            for step in range(self.num_steps_left):
                # -> places in the global order, (batch_size,), some perhaps past its end
                positions_B = self._part.positions(start.num_consumed, step)
                positions = positions_B[positions_B < len(order.rows_N)]
                # -> rows of the index -> a batch that is being decoded
                pending.append(self._submit(pool, reader, order.rows_N[positions], positions))
                # -> whole batches, in order
                if len(pending) > NUM_PREFETCHED:
                    yield self._hand_out(_finished(reader, pending))
            while pending:
                yield self._hand_out(_finished(reader, pending))
            self._cursor = start.next_epoch()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for work in pending:
                reader.files.end(work.shards)

    def _hand_out(self, batch: Batch) -> Batch:
        """The batch itself, counted as consumed from the moment it leaves."""
        left = len(self.samples) - self._cursor.num_consumed
        self._cursor = self._cursor.moved(min(left, self._part.global_batch))
        return batch

    def _num_threads(self) -> int:
        if self.settings.num_threads is not None:
            return self.settings.num_threads
        # Where the system tells: the cores of this process, not of the whole machine.
        known = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1

    def _submit(
        self, pool: ThreadPoolExecutor, reader: SampleReader, rows: Int32, positions: Int64
    ) -> _Work:
        """Start the work for these rows; they may be fewer than a batch has places."""
        batch, pixels_BHWC = self._empty_batch(rows)
        shards = tuple(np.unique(self.samples.shards_N[rows]).tolist())
        reader.files.begin(shards)
        views = self._views(positions)
        tasks = []
        for first in range(0, len(rows), SAMPLES_PER_TASK):
            part = slice(first, min(first + SAMPLES_PER_TASK, len(rows)))
            tasks.append(pool.submit(reader.fill, rows[part], views[part], pixels_BHWC[part]))
        return _Work(batch=batch, shards=shards, tasks=tuple(tasks))

    def _views(self, positions: Int64) -> Views:
        if not self.settings.augment:
            return whole_views(len(positions))
        return draw_views(Augment(), (self._cursor.seed, self._cursor.epoch), positions)

    def _empty_batch(self, rows: Int32) -> tuple[Batch, NDArray[np.uint8]]:
        """A batch without pixels yet, and the memory that they are written to."""
        size, num_blank = self._part.batch_size, self._part.batch_size - len(rows)
        shape = (size, *self.settings.image_size, 3)
        images_BHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=self.settings.pin_memory)
        images_BHWC[len(rows) :] = 0
        targets_BC = np.zeros((size, self.samples.num_classes), dtype=np.float32)
        targets_BC[: len(rows)] = self.samples.targets(rows)
        blanks = [""] * num_blank
        batch = Batch(
            images_BCHW=images_BHWC.permute(0, 3, 1, 2),
            targets_BC=torch.from_numpy(targets_BC),
            mask_B=torch.arange(size) < len(rows),
            image_ids=tuple(self.samples.image_ids.take(rows).to_pylist() + blanks),
            seq_ids=tuple(self.samples.seq_ids.take(rows).to_pylist() + blanks),
        )
        return batch, images_BHWC.numpy()


def _finished(reader: SampleReader, pending: deque[_Work]) -> Batch:
    """The oldest pending batch, once all of its tasks are done."""
    work = pending[0]
    wait(work.tasks)
    for task in work.tasks:
        task.result()
    pending.popleft()
    reader.files.end(work.shards)
    return work.batch
