"""Batches of one epoch, decoded ahead by a few threads and handed out in order."""

import dataclasses
from collections import Counter, deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.load.augment import Augment, Views, draw_views, whole_views
from serengeti_etl.load.batch import Batch, BatchMemory, UInt8
from serengeti_etl.load.decode import use_one_core
from serengeti_etl.load.epoch import Epoch
from serengeti_etl.load.order import Part, Window
from serengeti_etl.load.reader import Got, SampleReader, Wish
from serengeti_etl.load.ready import ReadyBatches
from serengeti_etl.load.shard_source import ShardSource
from serengeti_etl.load.table import Int64, SampleTable

if TYPE_CHECKING:
    from concurrent.futures import Future

Place = Literal["cpu", "device"]
ValueT = TypeVar("ValueT", str, bytes)

SAMPLES_PER_TASK = 8
"""Photographs that one thread decodes before it takes the next piece of work."""

SECONDS_TO_END = 2.0
"""That an abandoned iteration waits for its threads, each of which finishes what it decodes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Feeding:
    """How the batches of an epoch are made.

    Attributes:
        samples: the samples.
        part: of every global batch, what this rank takes.
        key: seed and epoch.
        augment: what may be changed of a photograph; None for nothing.
        crop_bottom: share of its height that is cut off the bottom.
        shape: height and width in px of the images of a batch.
        resize_on: ``device`` leaves crops, flips and sizes to it.
        decode_on: ``device`` leaves the decoding to it too.
        num_threads: that decode.
        num_ahead: batches in work beyond the one that is waited for.
    """

    samples: SampleTable
    part: Part
    key: tuple[int, int]
    augment: Augment | None
    crop_bottom: float
    shape: tuple[int, int]
    resize_on: Place
    decode_on: Place
    num_threads: int
    num_ahead: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """A batch that is being decoded.

    Attributes:
        end: place in the global order where its global batch ends.
        positions_B: places of its samples, without blanks.
        images_BF: images of its samples, -1 for none, blanks too.
        views: of its images.
        pixels_BHWC: where they are decoded to.
        shards: that it needs.
        tasks: what comes of its images, some at a time.
    """

    end: int
    positions_B: Int64
    images_BF: Int64
    views: Views
    pixels_BHWC: torch.Tensor
    shards: tuple[int, ...]
    tasks: tuple["Future[list[Got]]", ...]


class Feed:
    """Batches of one epoch.

    Args:
        feeding: how they are made.
        epoch: which images stand where.
        reader: of samples.
        memory: for pixels.
        ready: is told how many batches lie ready.
    """

    def __init__(
        self,
        feeding: Feeding,
        epoch: Epoch,
        reader: SampleReader,
        memory: BatchMemory,
        ready: ReadyBatches,
    ) -> None:
        self._feeding, self._epoch, self._reader = feeding, epoch, reader
        self._memory, self._ready = memory, ready

    def batches(self, starts: Sequence[int]) -> Generator[Batch, None, None]:
        """The batch of each step.

        Args:
            starts: place of the first sample of each step's global batch, rising.
        """
        feeding, source = self._feeding, self._reader.source
        if not starts:
            return
        windows = self._epoch.windows(feeding.part.lanes_used(starts[0]), starts[0])
        needs = _Needs(windows, source)
        pool = DaemonPool(feeding.num_threads, "serengeti-decode", use_one_core)
        pending: deque[_Work] = deque()
        try:
            # places in the global order -> batches that are being decoded
            for start in starts:
                pending.append(self._begun(pool, start))
                # -> whole batches, in order
                if len(pending) > feeding.num_ahead:
                    yield self._finished(pending, needs)
                    self._ready.note(work.tasks for work in pending)
            while pending:
                yield self._finished(pending, needs)
        finally:
            pool.abandon()
            pool.join(SECONDS_TO_END)
            for work in pending:
                source.end(work.shards)

    def _begun(self, pool: DaemonPool, start: int) -> _Work:
        feeding, part = self._feeding, self._feeding.part
        positions_B = part.positions(start, self._epoch.num_samples)
        images_BF = np.full((part.batch_size, feeding.samples.num_frames), -1, dtype=np.int64)
        images_BF[: len(positions_B)] = self._epoch.images(positions_B)
        wanted = images_BF[images_BF >= 0]
        shards = tuple(np.unique(feeding.samples.images.shards_of(wanted)).tolist())
        self._reader.source.begin(shards)
        views = self._views(positions_B, images_BF.shape)
        tensor, pixels_BHWC = self._memory.take((images_BF.size, *feeding.shape, 3))
        pixels_BHWC[images_BF.ravel() < 0] = 0
        wishes = self._wishes(images_BF, views, pixels_BHWC)
        tasks = [
            pool.submit(self._reader.fill, wishes[first : first + SAMPLES_PER_TASK])
            for first in range(0, len(wishes), SAMPLES_PER_TASK)
        ]
        return _Work(
            end=start + part.global_batch,
            positions_B=positions_B,
            images_BF=images_BF,
            views=views,
            pixels_BHWC=tensor,
            shards=shards,
            tasks=tuple(tasks),
        )

    def _views(self, positions_B: Int64, shape: tuple[int, ...]) -> Views:
        """Of all images: those of a sample share one, and blanks are whole."""
        num_samples, num_frames = shape
        feeding = self._feeding
        views = whole_views(num_samples * num_frames)
        if feeding.augment is not None:
            padded_B = np.zeros(num_samples, dtype=np.int64)
            padded_B[: len(positions_B)] = positions_B
            views = draw_views(feeding.augment, feeding.key, np.repeat(padded_B, num_frames))
        return dataclasses.replace(views, crop_bottom=feeding.crop_bottom)

    def _wishes(self, images_BF: Int64, views: Views, pixels_BHWC: UInt8) -> list[Wish]:
        is_read_only = self._feeding.decode_on == "device"
        is_whole = self._feeding.resize_on == "device"
        rows = zip(images_BF.ravel().tolist(), views, pixels_BHWC, strict=True)
        return [
            Wish(
                image=image,
                view=view,
                out_HWC=None if is_read_only else out_HWC,
                is_whole=is_whole,
            )
            for image, view, out_HWC in rows
            if image >= 0
        ]

    def _finished(self, pending: deque[_Work], needs: "_Needs") -> Batch:
        """The oldest batch, once all of its images are there."""
        work = pending[0]
        got = [one for task in work.tasks for one in task.result()]
        pending.popleft()
        self._reader.source.end(work.shards)
        needs.passed(work.end)
        return self._batch(work, got)

    def _batch(self, work: _Work, got: Sequence[Got]) -> Batch:
        images_BF = work.images_BF.copy()
        is_shown_N = images_BF.ravel() >= 0
        # A neighbour may stand in for a damaged image: targets are those of what is shown.
        images_BF.ravel()[is_shown_N] = [one.image for one in got]
        sizes_N2 = np.zeros((images_BF.size, 2), dtype=np.int64)
        sizes_N2[is_shown_N] = np.array([one.size for one in got], dtype=np.int64).reshape(-1, 2)
        num_blank = len(images_BF) - len(work.positions_B)
        is_left = self._feeding.resize_on == "device"
        firsts = np.cumsum(is_shown_N).reshape(images_BF.shape)[:, 0] - 1
        seq_ids = [got[at].seq_id for at in firsts[: len(work.positions_B)].tolist()]
        return Batch(
            images_BCHW=work.pixels_BHWC.permute(0, 3, 1, 2),
            targets_BC=torch.from_numpy(self._feeding.samples.targets(images_BF)),
            mask_B=torch.arange(len(images_BF)) < len(work.positions_B),
            frame_mask_BF=torch.from_numpy(images_BF >= 0),
            image_ids=_spread(is_shown_N, [one.image_id for one in got], ""),
            seq_ids=(*seq_ids, *[""] * num_blank),
            positions_B=torch.from_numpy(
                np.pad(work.positions_B, (0, num_blank), constant_values=-1)
            ),
            sizes_N2=sizes_N2,
            views=work.views if is_left else whole_views(images_BF.size),
            jpegs=_spread(is_shown_N, [one.jpeg for one in got], b"")
            if self._feeding.decode_on == "device"
            else (),
        )


class _Needs:
    """Tells a source which shards are coming, and which the epoch has left behind.

    Args:
        windows: of the lanes that this rank takes, in order of need.
        source: of shards.
    """

    def __init__(self, windows: Sequence[Window], source: ShardSource) -> None:
        self._source = source
        self._windows = deque(sorted(windows, key=lambda window: window.last))
        # A shard that reaches from one lane into the next is in a window of each.
        self._counts = Counter(shard for window in windows for shard in window.shards)
        source.schedule(list(dict.fromkeys(s for window in windows for s in window.shards)))

    def passed(self, position: int) -> None:
        """Everything before this place of the order has been handed out."""
        done = []
        while self._windows and self._windows[0].last < position:
            for shard in self._windows.popleft().shards:
                self._counts[shard] -= 1
                if not self._counts[shard]:
                    done.append(shard)
        if done:
            self._source.release(done)


def _spread(
    is_shown_N: NDArray[np.bool_], values: Sequence[ValueT], blank: ValueT
) -> tuple[ValueT, ...]:
    """The values at the places that are shown, and ``blank`` at the others."""
    left = iter(values)
    return tuple(next(left) if shown else blank for shown in is_shown_N.tolist())
