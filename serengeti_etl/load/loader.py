"""Batches of one split in one global order, decoded ahead by a few threads, resumable anywhere."""

import dataclasses
import hashlib
import os
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, cast

from torch.utils.data import IterableDataset, get_worker_info

from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.errors import ConfigError, require
from serengeti_etl.load.augment import Augment, check_crop_bottom
from serengeti_etl.load.batch import Batch, BatchMemory
from serengeti_etl.load.epoch import Epoch
from serengeti_etl.load.feed import Feed, Feeding, Place
from serengeti_etl.load.growing import GrowingDataset
from serengeti_etl.load.order import Cursor, Part
from serengeti_etl.load.read_table import Indexed, read_images
from serengeti_etl.load.reader import SampleReader
from serengeti_etl.load.ready import ReadyBatches
from serengeti_etl.load.report import LoaderReport
from serengeti_etl.load.selection import EVERYTHING, Selection
from serengeti_etl.load.shard_source import CacheSettings, SourceStats
from serengeti_etl.load.shards import open_source
from serengeti_etl.load.table import SampleTable
from serengeti_etl.stages import Stages

Source = str | Indexed


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderSettings:
    """How batches are made; only ``window``, ``lanes`` and ``keep_sequences`` change the order.

    Attributes:
        image_size: height and width of the images in px; photographs are stretched to it, so
            keep their 3:4 unless something speaks against it.
        window: shards of a lane mixed with each other; 0 keeps the order of the dataset.
        lanes: parts of the order that take turns; each node fetches the shards of its own lanes
            only, where the batch is a multiple of the lanes and these are one of the nodes.
        keep_sequences: frames of a sequence follow each other; otherwise they keep apart, so that
            no batch has two of them if the window is large enough.
        augment: light random crops and flips, or more; None for whole photographs.
        crop_bottom: share of each photograph's height that is cut off the bottom, in evaluation
            too: banners there tell site and time. What is left is stretched to ``image_size``.
        drop_last: leave out the samples after the last full global batch of an epoch; otherwise
            the last batch is filled up with masked blanks.
        resize_on: ``cpu`` gives images of ``image_size``. ``device`` gives whole photographs on
            canvases, for ``load.device.prepare``: half the work of the CPU.
        decode_on: ``device`` gives JPEG files, for ``load.nvjpeg.decode_on_device``.
        max_damaged: damaged samples for which a neighbour may stand in before it is an error.
        num_threads: threads that decode; None means as many as the process may use cores.
        num_ahead: batches decoded ahead of the consumer; with the one that it holds, the bound on
            the memory of batches.
        cache: how shards are brought and kept.
        pin_memory: batches in page-locked memory, for copies to a GPU that do not block.
    """

    image_size: tuple[int, int] = (288, 384)
    window: int = 4
    lanes: int = 1
    keep_sequences: bool = False
    augment: Augment | None = field(default_factory=Augment)
    crop_bottom: float = 0.0
    drop_last: bool = True
    resize_on: Place = "cpu"
    decode_on: Place = "cpu"
    max_damaged: int = 16
    num_threads: int | None = None
    num_ahead: int = 2
    cache: CacheSettings = field(default_factory=CacheSettings)
    pin_memory: bool = False

    def __post_init__(self) -> None:
        size = self.image_size
        positive = len(size) == 2 and all(side > 0 for side in size)  # noqa: PLR2004
        require(positive, "image_size", size, "(height, width) in px")
        check_crop_bottom(self.crop_bottom)
        require(self.window >= 0, "window", self.window, "zero or positive")
        require(self.lanes > 0, "lanes", self.lanes, "positive")
        places = (self.resize_on, self.decode_on)
        known = places in (("cpu", "cpu"), ("device", "cpu"), ("device", "device"))
        require(known, "resize_on, decode_on", places, "cpu or device; what is decoded on the "
                "device is resized there too")  # fmt: skip
        require(self.max_damaged >= 0, "max_damaged", self.max_damaged, "zero or positive")
        threads = self.num_threads
        require(threads is None or threads > 0, "num_threads", threads, "positive or None")
        require(self.num_ahead > 0, "num_ahead", self.num_ahead, "positive")

    def for_evaluation(self) -> "LoaderSettings":
        """The same, but whole photographs in the order of the dataset, none left out."""
        return dataclasses.replace(self, window=0, augment=None, drop_last=False)


class ShardLoader(IterableDataset[Batch]):
    """Batches of one split of a dataset, in an order that only dataset, seed and epoch decide.

    ``iter(loader)`` yields what is left of the current epoch, then moves to the next epoch.
    ``state_dict()`` between two batches names exactly the samples handed out so far; any loader of
    the same dataset, split, selection, seed, window and lanes continues from it, with another batch
    size, number of ranks or threads. Leave it with ``close()`` or a ``with`` block to end its
    threads.

    ``torch.utils.data.DataLoader(loader, batch_size=None, num_workers=n)`` gives the same batches
    in the same order; its processes share them out. The loader itself then does not know how many
    were taken: ``state_dict(num_batches=...)`` tells the place after so many.

    Args:
        url: a dataset's folder or bucket prefix, an open ``Dataset``, a ``GrowingDataset``, or
            several of them, whose samples are mixed.
        split: such as ``train``.
        batch_size: samples per batch of this rank.
        seed: another seed gives another order and other crops.
        rank: number of this rank, from 0.
        world_size: ranks in all; each takes its share of every global batch.
        selection: which samples, and how often; None takes every image once.
        settings: the rest.

    Raises:
        ConfigError: a setting is impossible, or an epoch would hold no full batch.
        DatasetError: there is no finished dataset, or not this split.
    """

    def __init__(  # noqa: PLR0913 - the public signature of the design
        self,
        url: Source | Sequence[Source],
        *,
        split: str,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        selection: Selection | None = None,
        settings: LoaderSettings | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.selection = settings or LoaderSettings(), selection or EVERYTHING
        self.datasets = _opened(url)
        _check_shares(self.selection, len(self.datasets))
        lanes = self.settings.lanes
        self._part = Part(rank=rank, world_size=world_size, batch_size=batch_size, lanes=lanes)
        self._cursor = Cursor(
            plan_hash=_plan_hash(self.datasets),
            split=split,
            seed=seed,
            window=self.settings.window,
            lanes=lanes,
        )
        self._read_samples()
        self._running: Generator[Batch, None, None] | None = None
        self._meter = _Meter()
        self._reader: SampleReader | None = None
        self._memory: BatchMemory | None = None

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return self._part.num_steps(len(self.samples), drop_last=self.settings.drop_last)

    @property
    def classes(self) -> tuple[str, ...]:
        """Categories in the order of the targets."""
        return self.samples.images.classes

    @property
    def epoch(self) -> int:
        """Number of the current epoch, from 0."""
        return self._cursor.epoch

    @property
    def num_steps_left(self) -> int:
        """Steps left in the current epoch."""
        left = len(self.samples) - self._cursor.num_consumed
        return self._part.num_steps(left, drop_last=self.settings.drop_last)

    @property
    def ready(self) -> ReadyBatches:
        """How many batches lay ready when one was asked for."""
        return self._meter.ready

    def __iter__(self) -> Iterator[Batch]:
        self._stop()
        if self._cursor.num_consumed == 0:
            self._take_snapshot()
        self._running = self._batches()
        return self._running

    def state_dict(self, *, num_batches: int = 0) -> dict[str, Any]:
        """The place after the last batch handed out, as plain values.

        Args:
            num_batches: so many batches of the epoch further on.
        """
        return self._moved(self._cursor, num_batches).state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the place that another loader's ``state_dict()`` named.

        Raises:
            ConfigError: the state belongs to another dataset, split, selection, seed, window or
                lanes.
            DatasetError: a shard of a growing dataset that the state names is gone.
        """
        self._stop()
        self._restore_snapshot(state.get("snapshot", ""))
        self._cursor = self._cursor.resumed(state)

    def start_epoch(self, epoch: int) -> None:
        """Go to the first sample of an epoch."""
        self._stop()
        self._cursor = self._cursor.at_epoch(epoch)

    def report(self) -> LoaderReport:
        """Where the time went since the first batch was asked for; ask before ``close``.

        What is known of shards and damage goes with them.
        """
        seconds = self._meter.stages.seconds()
        reader = self._reader
        return LoaderReport(
            num_samples=self._meter.num_samples,
            num_replaced=reader.num_damaged if reader else 0,
            num_threads=self._num_threads(),
            resizes=self.settings.resize_on == "cpu",
            seconds=self._meter.seconds,
            seconds_waited=seconds.get("next", 0.0),
            seconds_for_shards=seconds.get("wait", 0.0),
            seconds_reading=seconds.get("read", 0.0),
            seconds_decoding=seconds.get("decode", 0.0),
            num_ahead=self.settings.num_ahead,
            num_ready=self.ready.whole.mean,
            least_ready=self.ready.whole.least,
            source=reader.source.stats() if reader else SourceStats(),
        )

    def close(self) -> None:
        """End all threads; the loader may be used again."""
        self._stop()
        self._forget_shards()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but threads and files: a worker process opens its own."""
        return self.__dict__ | {"_running": None, "_reader": None, "_memory": None, "_meter": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _meter=_Meter())

    def _batches(self) -> Generator[Batch, None, None]:
        start, meter = self._cursor, self._meter
        number, num_workers = _data_worker()
        step_size = self._part.global_batch
        first = start.num_consumed + number * step_size
        end = start.num_consumed + self.num_steps_left * step_size
        batches = self._feed(start).batches(range(first, end, num_workers * step_size))
        try:
            while (batch := meter.timed_next(batches)) is not None:
                self._cursor = self._moved(self._cursor, num_workers)
                yield batch
        finally:
            batches.close()
            meter.pause()
        self._cursor = start.at_epoch(start.epoch + 1)

    def _feed(self, start: Cursor) -> Feed:
        settings = self.settings
        is_whole = settings.resize_on == "device"
        feeding = Feeding(
            samples=self.samples,
            part=self._part,
            key=(start.seed, start.epoch),
            augment=settings.augment,
            crop_bottom=settings.crop_bottom,
            shape=_shape(settings, self.samples.images.canvas) if is_whole else settings.image_size,
            resize_on=settings.resize_on,
            decode_on=settings.decode_on,
            num_threads=self._num_threads(),
            num_ahead=settings.num_ahead,
        )
        epoch = Epoch(
            self.samples,
            start,
            keep_sequences=settings.keep_sequences,
            vary=settings.augment is not None,
        )
        if self._memory is None:
            self._memory = BatchMemory(settings.num_ahead + 2, pin=settings.pin_memory)
        return Feed(feeding, epoch, self._open_reader(), self._memory, self.ready)

    def _moved(self, cursor: Cursor, num_batches: int) -> Cursor:
        left = len(self.samples) - cursor.num_consumed
        return cursor.moved(min(left, num_batches * self._part.global_batch))

    def _num_threads(self) -> int:
        if self.settings.num_threads is not None:
            return self.settings.num_threads
        # Where the system tells: the cores of this process, not of the whole machine.
        known = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1

    def _growing(self) -> list[GrowingDataset]:
        return [one for one in self.datasets if isinstance(one, GrowingDataset)]

    def _restore_snapshot(self, snapshot: str) -> None:
        """The shards of growing datasets that counted when a state was taken."""
        growing, snapshots = self._growing(), snapshot.split()
        wanted = f"of {len(growing)} growing datasets, as this loader's; see open_growing"
        require(len(snapshots) == len(growing), "snapshot of the loader's state", snapshot, wanted)
        for dataset, names in zip(growing, snapshots, strict=True):
            dataset.restore(names)
        if self._cursor.snapshot != snapshot:
            self._forget_shards()
            self._read_samples()

    def _take_snapshot(self) -> None:
        """At the start of an epoch: the shards of a growing dataset that are there by now."""
        growing = self._growing()
        if sum(dataset.refresh() for dataset in growing):
            self._forget_shards()
            self._read_samples()

    def _read_samples(self) -> None:
        read = read_images(self.datasets, self._cursor.split, self.selection)
        self.samples = SampleTable(read.images, self.selection)
        grouped = b"sequences" if self.settings.keep_sequences else b""
        self._cursor = dataclasses.replace(
            self._cursor,
            selection=self._fingerprint(read.taken, grouped),
            snapshot=" ".join(dataset.snapshot for dataset in self._growing()),
        )
        self._check_size()

    def _fingerprint(self, taken: bytes, grouped: bytes) -> str:
        # What a growing dataset has is named by its snapshot.
        known = b"" if self._growing() else taken
        return self.selection.fingerprint(known) + grouped.decode()

    def _check_size(self) -> None:
        num_samples, needed = len(self.samples), self._part.global_batch
        url = self.datasets[0].store.url
        if not num_samples:
            raise ConfigError(
                f"nothing of split {self._cursor.split} of {url} is selected: see where, fraction"
            )
        if self.settings.drop_last and num_samples < needed:
            raise ConfigError(
                f"batch_size is {self._part.batch_size} on {self._part.world_size} rank(s), but "
                f"split {self._cursor.split} of {url} has only {num_samples} "
                f"samples: an epoch would hold no batch; it must be at most "
                f"{num_samples // self._part.world_size}, or drop_last off"
            )

    def _stop(self) -> None:
        """End the iteration that runs now, if any."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def _forget_shards(self) -> None:
        if self._reader is not None:
            self._reader.source.close()
            self._reader = None

    def _open_reader(self) -> SampleReader:
        if self._reader is None:
            images, settings = self.samples.images, self.settings
            # Where little is taken of a shard, the rest of it is not fetched.
            wanted = images.ranges() if self.selection.is_partial else None
            source = open_source(images.shards, settings.cache, wanted)
            self._reader = SampleReader(images, source, settings.max_damaged, self._meter.stages)
        return self._reader


class _Meter:
    """Counts what was handed out, and the time between the first batch and the last."""

    def __init__(self) -> None:
        self.stages, self.ready = Stages(), ReadyBatches()
        self.num_samples = 0
        self._past, self._since = 0.0, None  # type: float, float | None

    @property
    def seconds(self) -> float:
        """Wall time of iterations."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._past + running

    def pause(self) -> None:
        """An iteration has ended."""
        self._past, self._since = self.seconds, None

    def timed_next(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, None after the last, and how long it was waited for."""
        self._since = self._since or time.perf_counter()
        with self.stages.time("next"):
            batch = next(batches, None)
        if batch is not None:
            self.num_samples += int(batch.mask_B.sum())
        return batch


def _opened(url: Source | Sequence[Source]) -> tuple[Indexed, ...]:
    several = url if isinstance(url, (list, tuple)) else [cast("Source", url)]
    require(len(several) > 0, "url", url, "at least one dataset")
    return tuple(open_dataset(one) if isinstance(one, str) else one for one in several)


def _check_shares(selection: Selection, num_datasets: int) -> None:
    shares = selection.shares
    fits = shares is None or len(shares) == num_datasets
    require(fits, "shares", shares, f"one number for each of the {num_datasets} datasets")


def _plan_hash(datasets: Sequence[Indexed]) -> str:
    """Of one dataset its own; of several one that names all of them in their order."""
    if len(datasets) == 1:
        return datasets[0].plan_hash
    joined = "\n".join(dataset.plan_hash for dataset in datasets)
    return hashlib.sha256(joined.encode()).hexdigest()


def _shape(settings: LoaderSettings, canvas: tuple[int, int]) -> tuple[int, int]:
    return (0, 0) if settings.decode_on == "device" else canvas


def _data_worker() -> tuple[int, int]:
    """Number of this process among a DataLoader's workers, and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)
