"""Probabilities put right: temperatures fitted on a split, and the odds of a thinned ``empty``."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from serengeti_etl.errors import require
from serengeti_etl.label_config import EMPTY
from serengeti_etl.train.predictions import Float64, Predictions, logits, sigmoid

MIN_SUPPORT = 20
"""Sequences that show a category, and that do not, below which its temperature stays 1."""

SHRINKAGE = 10.0
"""Weight of the pull towards temperature 1, in units of what sequences tell of it (see below)."""

_MAX_STEPS = 100
_RANGE = (0.05, 20.0)
"""Of inverse temperatures."""


def fit_temperatures(
    sequences: Predictions, *, min_support: int = MIN_SUPPORT, shrinkage: float = SHRINKAGE
) -> Float64:
    """One temperature per class, (C,), by which log odds are divided.

    With ``b = 1 / temperature``, each class minimises the sum of its sequences' log losses plus
    ``shrinkage / 2 * (b - 1) ** 2``. That is convex, and at ``b = 1`` the plain loss, so on the
    sequences that it is fitted on no class gets worse. The pull counts as much as sequences that
    tell ``shrinkage`` of b, where one with logit z tells ``p * (1 - p) * z ** 2``, at most 0.44.
    Classes with little support stay at 1: without positives, the best b is always the largest.

    Args:
        sequences: a split that the model was not trained on.
        min_support: least number of positives, and of negatives, of a class that is fitted.
        shrinkage: above 0.
    """
    require(shrinkage > 0, "shrinkage", shrinkage, "above 0")
    targets_NC = sequences.targets_NC
    shown_C = targets_NC.sum(axis=0)
    fitted_C = np.minimum(shown_C, len(targets_NC) - shown_C) >= min_support
    temperatures_C = np.ones(targets_NC.shape[1])
    if fitted_C.any():
        z = logits(sequences.probabilities_NC[:, fitted_C])
        temperatures_C[fitted_C] = 1 / _best_inverses(z, targets_NC[:, fitted_C], shrinkage)
    return temperatures_C


def _best_inverses(z_NC: Float64, targets_NC: Float64, shrinkage: float) -> Float64:
    """Newton's steps, halving the interval wherever one would leave it."""
    b_C = np.ones(z_NC.shape[1])
    low_C, high_C = (np.full_like(b_C, edge) for edge in _RANGE)
    for _ in range(_MAX_STEPS):
        p_NC = sigmoid(b_C * z_NC)
        slope_C = ((p_NC - targets_NC) * z_NC).sum(axis=0) + shrinkage * (b_C - 1)
        curvature_C = (p_NC * (1 - p_NC) * z_NC**2).sum(axis=0) + shrinkage
        low_C, high_C = np.where(slope_C < 0, b_C, low_C), np.where(slope_C > 0, b_C, high_C)
        newton_C = b_C - slope_C / curvature_C
        is_inside_C = (low_C <= newton_C) & (newton_C <= high_C)
        next_C = np.where(is_inside_C, newton_C, (low_C + high_C) / 2)
        is_done = bool(np.all(np.abs(next_C - b_C) <= 1e-12 * b_C))
        b_C = next_C
        if is_done:
            break
    return b_C


def with_temperatures(predictions: Predictions, temperatures_C: Float64) -> Predictions:
    """The same, log odds divided by the temperature of their class."""
    tempered_NC = sigmoid(logits(predictions.probabilities_NC) / temperatures_C)
    # Where nothing was fitted, nothing changes: not even by rounding, nor by the clip.
    is_plain_C = np.asarray(temperatures_C) == 1
    kept_NC = np.where(is_plain_C, predictions.probabilities_NC, tempered_NC)
    return replace(predictions, probabilities_NC=kept_NC)


def prior_shift(priors: Mapping[str, Any]) -> float:
    """What to add to the log odds of ``empty`` where it was thinned in train; 0 where not.

    Thinning keeps a share r of the empty sequences, whatever they look like, and so divides the
    odds of ``empty`` by 1 / r; the shift is ``-log(r)``, which is the log odds of its share before
    thinning less those after (Saerens, Latinne and Decaestecker 2002, Neural Computation 14(1);
    Elkan 2001, IJCAI, theorem 2).

    Args:
        priors: of ``dataset.json``; shares of sequences, taken to be those of images too.
    """
    shares = [priors.get(when, {}).get("shares", {}).get(EMPTY, 0.0) for when in _WHEN]
    if not all(0 < share < 1 for share in shares):
        return 0.0
    before, after = (float(np.log(share) - np.log1p(-share)) for share in shares)
    return before - after


_WHEN = ("before", "after")


def shifted_blanks(probabilities_NC: Float64, empty: int, shift: float) -> Float64:
    """Probabilities as a model would say that was trained without thinning, (N, C).

    With e the probability of ``empty`` and ``w = exp(shift)``, Bayes' rule makes it
    ``w * e / (1 - e + w * e)``, a shift of its log odds, and divides those of animals by the same
    ``1 - e + w * e``: what looks empty shows an animal less often than it did in train.

    Args:
        probabilities_NC: of images, as the model gives them.
        empty: position of ``empty`` among the classes.
        shift: see ``prior_shift``.
    """
    if shift == 0:
        return probabilities_NC
    weight = np.exp(shift)
    e_N1 = probabilities_NC[:, [empty]]
    shifted_NC = probabilities_NC / (1 - e_N1 + weight * e_N1)
    shifted_NC[:, [empty]] *= weight
    return np.asarray(np.clip(shifted_NC, 0, 1))


def with_prior_shift(images: Predictions, empty: int, shift: float) -> Predictions:
    """The same predictions, put right by ``shifted_blanks``."""
    if shift == 0:
        return images
    shifted_NC = shifted_blanks(images.probabilities_NC, empty, shift)
    return replace(images, probabilities_NC=shifted_NC)
