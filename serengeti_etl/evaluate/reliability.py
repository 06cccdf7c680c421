"""Whether a probability of 0.8 is right 8 times in 10."""

from dataclasses import dataclass

import numpy as np

from serengeti_etl.train.predictions import Float64

NUM_BINS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """The samples whose probability lies in one part of 0 to 1.

    Attributes:
        count: samples.
        mean_prediction: mean probability.
        share_shown: share of them that show the category.
    """

    count: int
    mean_prediction: float
    share_shown: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Predicted against observed.

    Attributes:
        bins: equally wide, from 0 up, those without samples left out.
        ece: expected calibration error: the mean distance of predicted and observed, over samples.
    """

    bins: tuple[Bin, ...]
    ece: float


def reliability(
    targets_N: Float64, probabilities_N: Float64, num_bins: int = NUM_BINS
) -> Reliability:
    """Bins as ``sklearn.calibration.calibration_curve`` has them; an edge belongs to the lower one.

    Args:
        targets_N: 0 or 1.
        probabilities_N: 0 to 1.
        num_bins: equally wide ones.
    """
    edges = np.linspace(0, 1, num_bins + 1)[1:-1]
    bin_N = np.searchsorted(edges, probabilities_N)
    counts = np.bincount(bin_N, minlength=num_bins)
    predicted = np.bincount(bin_N, weights=probabilities_N, minlength=num_bins)
    shown = np.bincount(bin_N, weights=targets_N, minlength=num_bins)
    bins = tuple(
        Bin(
            count=int(counts[at]),
            mean_prediction=float(predicted[at] / counts[at]),
            share_shown=float(shown[at] / counts[at]),
        )
        for at in np.flatnonzero(counts)
    )
    return Reliability(bins=bins, ece=float(np.abs(predicted - shown).sum() / max(counts.sum(), 1)))
