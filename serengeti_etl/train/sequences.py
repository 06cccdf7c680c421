"""Sequences out of images: several ways to make one probability of those of the frames."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from serengeti_etl.errors import require
from serengeti_etl.train.predictions import Float64, Int64, Predictions, logits, sigmoid

Method = Literal["mean", "geometric", "max", "noisy_or", "logit_mean"]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregation:
    """How the probabilities of a sequence's frames become one.

    ``mean``: their mean. ``geometric``: their geometric mean. ``logit_mean``: the mean of their log
    odds. ``max``: the largest for animals, the smallest for ``empty``. ``noisy_or``: as if frames
    were independent; that any of them shows the animal, that all of them are ``empty``.

    Attributes:
        animals: method for all categories but ``empty``.
        empty: method for ``empty``.
    """

    animals: Method = "mean"
    empty: Method = "geometric"

    def __post_init__(self) -> None:
        for field in ("animals", "empty"):
            method = getattr(self, field)
            require(method in METHODS, f"aggregation of {field}", method, f"one of {METHODS}")


WINNERS = Aggregation()
"""As the winner of the competition did: one frame with an animal speaks against ``empty``."""


def aggregate_sequences(
    images: Predictions, empty: int | None, *, aggregation: Aggregation = WINNERS
) -> Predictions:
    """One row per sequence, in order of first appearance.

    A category is shown by a sequence if it is shown by any of its frames; ``empty`` if all frames
    are empty.

    Args:
        images: of whole sequences.
        empty: position of ``empty`` among the classes; None if it is no class.
        aggregation: how probabilities are put together.
    """
    frames = _Frames(images.seq_ids)
    probabilities = _ANIMALS[aggregation.animals](frames, images.probabilities_NC)
    targets = frames.reduce(np.maximum, images.targets_NC)
    if empty is not None:
        of_empty_N1 = images.probabilities_NC[:, [empty]]
        probabilities[:, [empty]] = _EMPTY[aggregation.empty](frames, of_empty_N1)
        targets[:, [empty]] = frames.reduce(np.minimum, images.targets_NC[:, [empty]])
    return Predictions(
        names=frames.names,
        seq_ids=frames.names,
        targets_NC=(targets > 0).astype(np.float64),
        probabilities_NC=np.clip(probabilities, 0, 1),
    )


def first_frames(seq_ids: tuple[str, ...]) -> Int64:
    """The first image of each sequence, in the order of ``aggregate_sequences``."""
    frames = _Frames(seq_ids)
    return frames.order_N[frames.starts_S]


class _Frames:
    """The images of some sequences, brought together by sequence.

    Args:
        seq_ids: sequence of each image, in any order.
    """

    def __init__(self, seq_ids: tuple[str, ...]) -> None:
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(name, len(number_of)) for name in seq_ids]
        sequence_N = np.array(numbers, dtype=np.int64)
        self.names = tuple(number_of)
        self.order_N: Int64 = np.argsort(sequence_N, kind="stable")
        counts_S = np.bincount(sequence_N, minlength=len(self.names))
        self.counts_S1 = counts_S[:, None].astype(np.float64)
        self.starts_S: Int64 = np.cumsum(counts_S) - counts_S

    def reduce(self, function: np.ufunc, values_NC: Float64) -> Float64:
        """``function`` over the frames of each sequence, (S, C)."""
        values = np.asarray(values_NC, dtype=np.float64)[self.order_N]
        return np.asarray(function.reduceat(values, self.starts_S, axis=0))

    def mean(self, values_NC: Float64) -> Float64:
        """Mean over the frames of each sequence, (S, C)."""
        return self.reduce(np.add, values_NC) / self.counts_S1


def _mean(frames: _Frames, p_NC: Float64) -> Float64:
    return frames.mean(p_NC)


def _geometric(frames: _Frames, p_NC: Float64) -> Float64:
    return np.asarray(np.exp(frames.mean(_logs(p_NC))))


def _logit_mean(frames: _Frames, p_NC: Float64) -> Float64:
    return sigmoid(frames.mean(logits(p_NC)))


def _any(frames: _Frames, p_NC: Float64) -> Float64:
    # Not as 1 - all(1 - p): that would lose small probabilities.
    absent_logs = np.log1p(-np.minimum(p_NC, 1 - np.finfo(np.float64).epsneg))
    return np.asarray(-np.expm1(frames.reduce(np.add, absent_logs)))


def _all(frames: _Frames, p_NC: Float64) -> Float64:
    return np.asarray(np.exp(frames.reduce(np.add, _logs(p_NC))))


def _largest(frames: _Frames, p_NC: Float64) -> Float64:
    return frames.reduce(np.maximum, p_NC)


def _smallest(frames: _Frames, p_NC: Float64) -> Float64:
    return frames.reduce(np.minimum, p_NC)


def _logs(p_NC: Float64) -> Float64:
    return np.asarray(np.log(np.maximum(p_NC, np.finfo(np.float64).tiny)))


_Combine = Callable[[_Frames, Float64], Any]
_BOTH: dict[str, _Combine] = {"mean": _mean, "geometric": _geometric, "logit_mean": _logit_mean}
_ANIMALS = _BOTH | {"max": _largest, "noisy_or": _any}
_EMPTY = _BOTH | {"max": _smallest, "noisy_or": _all}
