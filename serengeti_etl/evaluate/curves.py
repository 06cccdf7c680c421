"""Precision over recall, and what is read off it."""

from dataclasses import dataclass

import numpy as np

from serengeti_etl.train.predictions import Flags, Float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What each threshold would find; a sample counts as found from the threshold upwards.

    Attributes:
        thresholds_T: distinct scores, falling.
        hits_T: positives at or above each threshold.
        found_T: samples at or above each threshold.
        num_positive: positives in all.
    """

    thresholds_T: Float64
    hits_T: Float64
    found_T: Float64
    num_positive: float

    @property
    def precisions(self) -> Float64:
        """Positives among the found at each threshold, 0 to 1, (T,)."""
        return self.hits_T / self.found_T

    @property
    def recalls(self) -> Float64:
        """Found among the positives at each threshold, (T,); zeros without positives."""
        return self.hits_T / max(self.num_positive, 1)


def precision_recall(targets_N: Float64, scores_N: Float64) -> Curve:
    """The curve of one category.

    Args:
        targets_N: 0 or 1.
        scores_N: larger means likelier; equal scores are taken together.
    """
    order = np.argsort(-scores_N, kind="stable")
    falling_N = scores_N[order]
    last_of_score_T = np.flatnonzero(np.append(np.diff(falling_N) != 0, len(falling_N) > 0))
    return Curve(
        thresholds_T=falling_N[last_of_score_T],
        hits_T=np.cumsum(targets_N[order])[last_of_score_T],
        found_T=(last_of_score_T + 1).astype(np.float64),
        num_positive=float(np.sum(targets_N)),
    )


def average_precision(curve: Curve) -> float | None:
    """Area under the precision-recall steps, 0 to 1; None where nothing is positive."""
    if curve.num_positive == 0:
        return None
    return float(np.sum(np.diff(curve.recalls, prepend=0.0) * curve.precisions))


def best_f1(curve: Curve) -> tuple[float, float] | None:
    """The largest F1 and the highest threshold that reaches it; None where nothing is positive."""
    if curve.num_positive == 0:
        return None
    f1_T = 2 * curve.hits_T / (curve.found_T + curve.num_positive)
    at = int(np.argmax(f1_T))
    return float(f1_T[at]), float(curve.thresholds_T[at])


def f1(targets_N: Float64, found_N: Flags) -> float | None:
    """Harmonic mean of precision and recall; None where nothing is positive nor found."""
    total = float(targets_N.sum() + found_N.sum())
    return 2 * float(targets_N[found_N].sum()) / total if total else None
