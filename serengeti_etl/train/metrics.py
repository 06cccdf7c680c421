"""The competition's score, sequences out of images, and the record of a run. Numpy only."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from serengeti_etl.storage import (
        Store,
    )  # a submission scores nothing and takes no storage along

Float64 = NDArray[np.float64]

CLIP = 1e-15
"""Distance that probabilities keep from 0 and 1; the competition's own is unpublished."""

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Targets and probabilities of some images, or of some sequences.

    Attributes:
        names: image ids; for sequences the sequence ids again.
        seq_ids: sequence of each.
        targets_NC: 1 for each category that is shown, (N, C).
        probabilities_NC: 0 to 1, (N, C).
    """

    names: tuple[str, ...]
    seq_ids: tuple[str, ...]
    targets_NC: Float64
    probabilities_NC: Float64


def mean_binary_log_loss(
    targets_NC: Float64, probabilities_NC: Float64, clip: float = CLIP
) -> float:
    """The competition's score: the mean of N x C binary log losses, in float64; lower is better.

    Not ``sklearn.metrics.log_loss`` on the 2-D arrays: that is a multiclass loss.

    Args:
        targets_NC: 0 or 1, or expected values in between, (N, C).
        probabilities_NC: 0 to 1, (N, C) or broadcast to it.
        clip: distance that probabilities keep from 0 and 1.
    """
    return float(binary_log_losses(targets_NC, probabilities_NC, clip).mean())


def binary_log_losses(
    targets_NC: Float64, probabilities_NC: Float64, clip: float = CLIP
) -> Float64:
    """Log loss of each sample and class, (N, C); arguments as in ``mean_binary_log_loss``."""
    targets = np.asarray(targets_NC, dtype=np.float64)
    p = np.clip(np.asarray(probabilities_NC, dtype=np.float64), clip, 1 - clip)
    return np.asarray(-(targets * np.log(p) + (1 - targets) * np.log1p(-p)))


def class_means(counts_C: NDArray[np.int64], total: int) -> Float64:
    """Share of samples that show each class, (C,), strictly between 0 and 1.

    Half a sample with and half a sample without are added to each class, so that a class that
    never occurs is thought rare, not impossible.

    Args:
        counts_C: samples that show each class.
        total: samples in all.
    """
    return (np.asarray(counts_C, dtype=np.float64) + 0.5) / (total + 1)


def aggregate_sequences(images: Predictions, empty: int | None) -> Predictions:
    """One row per sequence, in order of first appearance.

    Probabilities are the mean over frames, for ``empty`` the geometric mean, as the winner of the
    competition did: one frame with an animal speaks against an empty sequence. A category is shown
    by a sequence if it is shown by any of its frames; ``empty`` if all frames are empty.

    Args:
        images: of whole sequences.
        empty: position of ``empty`` among the classes; None if it is no class.
    """
    sequence_N, names = _sequence_numbers(images.seq_ids)
    num_frames = np.bincount(sequence_N, minlength=len(names)).astype(np.float64)[:, None]
    means = _sums(images.probabilities_NC, sequence_N, len(names)) / num_frames
    targets = (_sums(images.targets_NC, sequence_N, len(names)) > 0).astype(np.float64)
    if empty is not None:
        logs = np.log(np.maximum(images.probabilities_NC[:, [empty]], np.finfo(np.float64).tiny))
        means[:, [empty]] = np.exp(_sums(logs, sequence_N, len(names)) / num_frames)
        shown = _sums(images.targets_NC[:, [empty]], sequence_N, len(names))
        targets[:, [empty]] = shown == num_frames
    return Predictions(names=names, seq_ids=names, targets_NC=targets, probabilities_NC=means)


def _sequence_numbers(seq_ids: tuple[str, ...]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    number_of: dict[str, int] = {}
    numbers = [number_of.setdefault(name, len(number_of)) for name in seq_ids]
    return np.array(numbers, dtype=np.int64), tuple(number_of)


def _sums(values_NC: Float64, group_N: NDArray[np.int64], num_groups: int) -> Float64:
    sums = np.zeros((num_groups, values_NC.shape[1]), dtype=np.float64)
    np.add.at(sums, group_N, values_NC)
    return sums


def average_precision(targets_N: Float64, scores_N: Float64) -> float | None:
    """Area under the precision-recall steps, 0 to 1; None where nothing is positive.

    Args:
        targets_N: 0 or 1.
        scores_N: larger means likelier; equal scores are taken together.
    """
    num_positive = float(np.sum(targets_N))
    if num_positive == 0:
        return None
    order = np.argsort(-scores_N, kind="stable")
    is_last_of_score = np.append(np.diff(scores_N[order]) != 0, True)
    hits = np.cumsum(targets_N[order])[is_last_of_score]
    precision = hits / (np.flatnonzero(is_last_of_score) + 1)
    recall = np.concatenate([[0.0], hits / num_positive])
    return float(np.sum(np.diff(recall) * precision))


class MetricsFile:
    """The records of a run, kept in memory and written whole to ``metrics.jsonl``.

    Written just before each checkpoint; on resume cut back to the records that the checkpoint
    knows, so that an interrupted run tells the same as an undisturbed one, apart from times.

    Args:
        run: folder or bucket prefix of the run.
    """

    def __init__(self, run: "Store") -> None:
        self._run = run
        self.records: list[dict[str, Any]] = []

    def restore(self, num_records: int) -> None:
        """Take up the first ``num_records`` of what is on storage."""
        if num_records:
            lines = self._run.read(METRICS_FILE).decode().splitlines()
            self.records = [json.loads(line) for line in lines[:num_records]]

    def write(self) -> None:
        """Put all records on storage, whole or not at all."""
        lines = [json.dumps(record, allow_nan=False) for record in self.records]
        self._run.write(METRICS_FILE, "".join(f"{line}\n" for line in lines).encode())
