"""Photographs' bytes to probabilities, batch by batch. Taken along by submissions.

While the network works on one batch, threads prepare the next. Of photographs no more than two
batches are held, whatever their number.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from serengeti_etl.convert.resize import resize_jpeg
from serengeti_etl.errors import ImageError
from serengeti_etl.load.augment import View
from serengeti_etl.load.decode import UInt8, decode_into, use_one_core
from serengeti_etl.predict.served import ModelConfig, ServedModel
from serengeti_etl.train.predictions import Float64

BATCH_SIZE = 32
"""Photographs per batch; it decides nothing but memory."""

Content = bytes | ImageError
"""A photograph, or why it cannot be had."""

Outcome = Float64 | ImageError
"""Probabilities of a photograph, (num_classes,), or why there are none."""


def prepare_photograph(photograph: bytes, config: ModelConfig, out_HWC: UInt8) -> None:
    """Fill ``out_HWC`` with what the network gets: resized, coded, decoded, its bottom cut off.

    The JPEG in between is not waste. The network has only seen photographs that went through it,
    and the competition's winners lost 0.0007 of 0.0038 without.

    Args:
        photograph: content of the file.
        config: of the model.
        out_HWC: (*image_size, 3) uint8, RGB, written in place.

    Raises:
        ImageError: the photograph cannot be used.
    """
    view = View(crop_bottom=config.crop_bottom)
    decode_into(resize_jpeg(photograph, config.resize).jpeg, view, out_HWC)


def predict_contents(
    model: ServedModel,
    contents: Iterable[Content],
    batch_size: int = BATCH_SIZE,
    num_threads: int | None = None,
) -> Iterator[Outcome]:
    """The outcome of each photograph, in order.

    Args:
        model: that predicts.
        contents: photographs; what the iterator raises is passed on.
        batch_size: photographs per batch.
        num_threads: that prepare; None takes one for each core that this process may use.
    """
    num_threads = num_threads or num_usable_cores()
    pool = ThreadPoolExecutor(num_threads, "prepare", initializer=use_one_core)
    pending: deque[_Batch] = deque()
    with pool:
        for batch in _started(model.config, iter(contents), batch_size, pool):
            pending.append(batch)
            if len(pending) > 1:
                yield from pending.popleft().outcomes(model)
        while pending:
            yield from pending.popleft().outcomes(model)


def num_usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Photographs that are being prepared.

    Attributes:
        images_BHWC: where their pixels come to be.
        failures: one for each; None where there are pixels.
    """

    images_BHWC: UInt8
    failures: "tuple[Future[ImageError | None], ...]"

    def outcomes(self, model: ServedModel) -> Iterator[Outcome]:
        failures = [future.result() for future in self.failures]
        is_good_B = np.array([failure is None for failure in failures])
        if not is_good_B.any():
            yield from (failure for failure in failures if failure is not None)
            return
        good_BHWC = self.images_BHWC if is_good_B.all() else self.images_BHWC[is_good_B]
        rows = iter(model.probabilities(good_BHWC))
        for failure in failures:
            yield next(rows) if failure is None else failure


def _started(
    config: ModelConfig, contents: Iterator[Content], batch_size: int, pool: ThreadPoolExecutor
) -> Iterator[_Batch]:
    while group := list(islice(contents, batch_size)):
        images_BHWC = np.empty((len(group), *config.image_size, 3), dtype=np.uint8)
        failures = tuple(
            pool.submit(_failure, content, config, out_HWC)
            for content, out_HWC in zip(group, images_BHWC, strict=True)
        )
        del group  # each is held by its thread alone, until it is prepared
        yield _Batch(images_BHWC=images_BHWC, failures=failures)


def _failure(content: Content, config: ModelConfig, out_HWC: UInt8) -> ImageError | None:
    """Why there are no pixels; None after writing them."""
    if isinstance(content, ImageError):
        return content
    try:
        prepare_photograph(content, config, out_HWC)
    except ImageError as error:
        return ImageError(error.reason, error.message)  # without a traceback, which holds pixels
    return None
