"""The competition's score, and the record of a run. Numpy only."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.errors import require
from serengeti_etl.runs.records import Records
from serengeti_etl.runs.status import METRICS_FILE
from serengeti_etl.train.place import RunPlace
from serengeti_etl.train.predictions import CLIP, Float64, Predictions
from serengeti_etl.train.sequences import aggregate_sequences

if TYPE_CHECKING:
    from serengeti_etl.storage import Store  # whoever only scores needs no storage

__all__ = [
    "CLIP",
    "METRICS_FILE",
    "Float64",
    "MetricsFile",
    "Predictions",
    "aggregate_sequences",
    "binary_log_losses",
    "class_means",
    "mean_binary_log_loss",
]
"""All that the loop needs to score an epoch, from one room."""


def mean_binary_log_loss(
    targets_NC: Float64, probabilities_NC: Float64, clip: float = CLIP
) -> float:
    """The competition's score: the mean of N x C binary log losses, in float64; lower is better.

    Not ``sklearn.metrics.log_loss`` on the 2-D arrays: that is a multiclass loss.

    Args:
        targets_NC: 0 or 1, or expected values in between, (N, C).
        probabilities_NC: 0 to 1, (N, C) or broadcast to it.
        clip: distance that probabilities keep from 0 and 1.

    Raises:
        ConfigError: the probabilities do not broadcast to the targets.
    """
    return float(binary_log_losses(targets_NC, probabilities_NC, clip).mean())


def binary_log_losses(
    targets_NC: Float64, probabilities_NC: Float64, clip: float = CLIP
) -> Float64:
    """Log loss of each sample and class, (N, C); arguments as in ``mean_binary_log_loss``."""
    targets = np.asarray(targets_NC, dtype=np.float64)
    p = np.clip(np.asarray(probabilities_NC, dtype=np.float64), clip, 1 - clip)
    # Numpy would stretch one column of targets over all classes, and say nothing.
    allowed = (targets.shape, targets.shape[-1:], (1, *targets.shape[1:]))
    require(
        p.shape in allowed,
        "shape of probabilities_NC",
        p.shape,
        f"{targets.shape}, as of targets_NC",
    )
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


class MetricsFile(Records):
    """The records of a run in ``metrics.jsonl``.

    Written just before each checkpoint, and between them by the run's board, if it has one; on
    resume cut back to the records that the checkpoint knows, so that an interrupted run tells the
    same as an undisturbed one, apart from times.

    Args:
        run: folder or bucket prefix of the run.
    """

    def __init__(self, run: "Store") -> None:
        super().__init__(run, METRICS_FILE)

    def record(
        self, kind: Literal["train", "val"], place: RunPlace, stage: str, values: Mapping[str, Any]
    ) -> None:
        """Add a record of ``values`` at ``place``, in the stage of that name."""
        where = {"step": place.step, "epoch": place.epochs, "stage": stage}
        now = {"time": round(time.time(), 3)}
        self.records.append({"kind": kind} | where | dict(values) | now)
