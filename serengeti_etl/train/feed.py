"""Batches from a loader to where the network is, with the waiting for them measured."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import torch

from serengeti_etl.load.batch import Batch
from serengeti_etl.load.device import Output, prepare
from serengeti_etl.load.ready import ReadyBatches


def on_device(
    batches: Iterable[Batch], device: torch.device, output: Output | None = None
) -> Iterator[Batch]:
    """The batches with images and targets on the device, as the network gets them.

    On a GPU copies and crops have a stream of their own, so that they go on while the network works
    on the batch before.

    Args:
        batches: of a loader.
        device: where to.
        output: what to make there of whole photographs on canvases; None if the loader did it.
    """
    make_stream: Any = torch.cuda.Stream
    side = make_stream(device) if device.type == "cuda" else None
    for batch in batches:
        with nullcontext() if side is None else torch.cuda.stream(side):
            moved = _moved(batch, device, output)
        if side is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(side)
            for tensor in (moved.images_BCHW, moved.targets_BC):
                # So that their memory is not used again while the network still reads it.
                tensor.record_stream(current)
        yield moved


def _moved(batch: Batch, device: torch.device, output: Output | None) -> Batch:
    images_BCHW = batch.images_BCHW.to(device, non_blocking=True)
    if output is not None:
        images_BCHW = prepare(images_BCHW, batch.sizes_N2, batch.views, output)
    return dataclasses.replace(
        batch,
        images_BCHW=images_BCHW,
        targets_BC=batch.targets_BC.to(device, non_blocking=True),
    )


class Clock:
    """Time since the last reading, and the part of it spent waiting for batches.

    Args:
        ready: of the loader; None where there is none.
    """

    def __init__(self, ready: ReadyBatches | None = None) -> None:
        self._ready = ready
        self._restart()

    def _restart(self) -> None:
        self._start, self._waited, self._num_images = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the waiting for each of them measured."""
        stream = iter(batches)
        while True:
            start = time.perf_counter()
            batch = next(stream, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            self._num_images += len(batch.image_ids)
            yield batch

    def read(self, num_ranks: int) -> dict[str, float]:
        """``images_per_second`` of all ranks; ``data_wait`` and ``ready`` of this one.

        The second is a share from 0 to 1, the third the mean number of batches that lay ready in
        the loader when one was asked for; it is left out where none was.

        Args:
            num_ranks: that work alike.
        """
        seconds = time.perf_counter() - self._start
        speed, wait = self._num_images * num_ranks / seconds, self._waited / seconds
        self._restart()
        depth = None if self._ready is None else self._ready.read().mean
        ready = {} if depth is None else {"ready": round(depth, 2)}
        return {"images_per_second": round(speed, 2), "data_wait": round(wait, 4), **ready}
