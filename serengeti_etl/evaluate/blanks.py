"""Empty sequences found, so that nobody needs to look at them, and animals lost with them."""

from dataclasses import dataclass

import numpy as np

from serengeti_etl.evaluate.classes import share
from serengeti_etl.evaluate.curves import Curve, precision_recall
from serengeti_etl.train.predictions import Float64, Predictions

MAX_POINTS = 101
"""Of the curve that is written; evenly chosen among its thresholds, first and last among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BlankPoint:
    """What comes of calling blank what is ``empty`` with at least some probability.

    Attributes:
        threshold: that probability.
        precision: empty among the called blank; None if none is.
        recall: called blank among the empty; None if none is empty.
        missed: called blank among the sequences with animals; None if there are none.
        called: called blank among all.
    """

    threshold: float
    precision: float | None
    recall: float | None
    missed: float | None
    called: float


@dataclass(frozen=True, kw_only=True, slots=True)
class BlankResult:
    """Blanks of a split.

    Attributes:
        chosen: at the threshold that was given or tuned.
        curve: from high thresholds to low ones.
    """

    chosen: BlankPoint
    curve: tuple[BlankPoint, ...]


def blank_result(sequences: Predictions, empty: int, threshold: float) -> BlankResult:
    """Blanks at the threshold, and the curve.

    Args:
        sequences: predicted.
        empty: position of ``empty`` among the classes.
        threshold: probability of ``empty``.
    """
    curve = _curve(sequences, empty)
    num_sequences = len(sequences.names)
    last = len(curve.thresholds_T) - 1
    places = np.unique(np.linspace(0, last, MAX_POINTS).round().astype(np.int64))
    # Thresholds fall, so those at or above the chosen one come first.
    at = int(np.searchsorted(-curve.thresholds_T, -threshold, side="right")) - 1
    return BlankResult(
        chosen=_point(curve, at, threshold, num_sequences),
        curve=tuple(
            _point(curve, place, float(curve.thresholds_T[place]), num_sequences)
            for place in places.tolist()
        ),
    )


def blank_threshold(sequences: Predictions, empty: int, max_missed: float) -> float:
    """The lowest threshold that loses at most a share of the sequences with animals.

    Above 1 where even the surest blank shows an animal: then none is called blank.

    Args:
        sequences: predicted, to choose it on.
        empty: position of ``empty`` among the classes.
        max_missed: share, 0 to 1.
    """
    curve = _curve(sequences, empty)
    num_animals = len(sequences.names) - curve.num_positive
    # As a share, as it is told: a product may be rounded up to a whole number.
    allowed_T = (curve.found_T - curve.hits_T) / max(1, num_animals) <= max_missed
    # The missed only grow as the threshold falls.
    num_allowed = int(allowed_T.sum())
    return float(curve.thresholds_T[num_allowed - 1]) if num_allowed else float(np.nextafter(1, 2))


def _curve(sequences: Predictions, empty: int) -> Curve:
    shown_N: Float64 = sequences.targets_NC[:, empty]
    return precision_recall(shown_N, sequences.probabilities_NC[:, empty])


def _point(curve: Curve, at: int, threshold: float, num_sequences: int) -> BlankPoint:
    hits, found = (
        float(values[at]) if at >= 0 else 0.0 for values in (curve.hits_T, curve.found_T)
    )
    return BlankPoint(
        threshold=threshold,
        precision=share(hits, found),
        recall=share(hits, curve.num_positive),
        missed=share(found - hits, num_sequences - curve.num_positive),
        called=found / num_sequences,
    )
