"""Targets and probabilities of images or sequences, the way to logits and back. Numpy only."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.errors import ConfigError, require

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Flags = NDArray[np.bool_]

CLIP = 1e-15
"""Distance that probabilities keep from 0 and 1; the competition's own is unpublished."""


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

    def check(self, classes: tuple[str, ...]) -> None:
        """Nothing, if shapes agree and every value lies between 0 and 1.

        Args:
            classes: categories in the order of the columns.

        Raises:
            ConfigError: otherwise; names the array, and the image and category of a wrong value.
        """
        num_seq_ids, num_names = len(self.seq_ids), len(self.names)
        require(
            num_seq_ids == num_names, "number of seq_ids", num_seq_ids, f"{num_names}, as of names"
        )
        shape = (num_names, len(classes))
        for field in ("targets_NC", "probabilities_NC"):
            values = getattr(self, field)
            require(
                values.shape == shape,
                f"shape of {field}",
                values.shape,
                f"{shape}, names x classes",
            )
            # NaN compares false, so it is among the wrong ones.
            for row, column in np.argwhere(~((values >= 0) & (values <= 1)))[:1]:
                where, got = f"{self.names[row]}, {classes[column]}", float(values[row, column])
                raise ConfigError(
                    f"{field} of {where} is {got}, but it must be a number from 0 to 1"
                )

    def take(self, mask_N: Flags) -> "Predictions":
        """Those for which ``mask_N`` is true."""
        rows = np.flatnonzero(mask_N).tolist()
        return Predictions(
            names=tuple(self.names[row] for row in rows),
            seq_ids=tuple(self.seq_ids[row] for row in rows),
            targets_NC=self.targets_NC[mask_N],
            probabilities_NC=self.probabilities_NC[mask_N],
        )


def logits(probabilities: Float64) -> Float64:
    """Log odds of probabilities that are kept ``CLIP`` from 0 and 1."""
    p = np.clip(np.asarray(probabilities, dtype=np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(p) - np.log1p(-p))


def sigmoid(log_odds: Float64) -> Float64:
    """Probabilities of log odds, without overflow on either side."""
    small = np.exp(-np.abs(log_odds))
    return np.asarray(np.where(log_odds >= 0, 1.0, small) / (1 + small))
