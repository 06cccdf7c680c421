"""How each category fares, over sequences."""

from dataclasses import dataclass

import numpy as np

from serengeti_etl.evaluate.curves import average_precision, f1, precision_recall
from serengeti_etl.evaluate.reliability import reliability
from serengeti_etl.label_config import EMPTY
from serengeti_etl.train.metrics import binary_log_losses
from serengeti_etl.train.predictions import Float64, Predictions

THRESHOLD = 0.5
"""Probability from which a category counts as predicted in precision and recall."""

MACRO_SUPPORT = 20
"""Sequences that show a species, from which it counts in macro-F1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassResult:
    """How one category fares, over sequences.

    Attributes:
        name: category.
        support: sequences that show it.
        mean_prediction: mean probability.
        log_loss: mean binary log loss.
        class_means_log_loss: the same, when the class mean is predicted for every sequence.
        average_precision: area under precision over recall; None without support.
        precision: right among the predicted at 0.5; None if nothing is predicted.
        recall: predicted at 0.5 among those shown; None without support.
        f1: at ``threshold``; None if nothing is shown nor predicted.
        threshold: with the best F1 on the split that was tuned on; 0.5 if it shows none there.
        ece: expected calibration error.
    """

    name: str
    support: int
    mean_prediction: float
    log_loss: float
    class_means_log_loss: float
    average_precision: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    threshold: float
    ece: float


def class_results(
    sequences: Predictions, classes: tuple[str, ...], means_C: Float64, thresholds_C: Float64
) -> tuple[ClassResult, ...]:
    """One result per category, in the order of the columns.

    Args:
        sequences: predicted.
        classes: categories in the order of the columns.
        means_C: class means of the training split.
        thresholds_C: for F1.
    """
    targets_NC, probabilities_NC = sequences.targets_NC, sequences.probabilities_NC
    losses_C = binary_log_losses(targets_NC, probabilities_NC).mean(axis=0)
    baseline_C = binary_log_losses(targets_NC, means_C).mean(axis=0)
    results = []
    for at, name in enumerate(classes):
        shown_N, probability_N = targets_NC[:, at], probabilities_NC[:, at]
        predicted_N = probability_N >= THRESHOLD
        num_right = float(shown_N[predicted_N].sum())
        results.append(
            ClassResult(
                name=name,
                support=int(shown_N.sum()),
                mean_prediction=float(probability_N.mean()),
                log_loss=float(losses_C[at]),
                class_means_log_loss=float(baseline_C[at]),
                average_precision=average_precision(precision_recall(shown_N, probability_N)),
                precision=share(num_right, float(predicted_N.sum())),
                recall=share(num_right, float(shown_N.sum())),
                f1=f1(shown_N, probability_N >= thresholds_C[at]),
                threshold=float(thresholds_C[at]),
                ece=reliability(shown_N, probability_N).ece,
            )
        )
    return tuple(results)


def macro_f1(results: tuple[ClassResult, ...]) -> float | None:
    """Mean F1 of the species with support enough; None where there is no such species."""
    scores = [one.f1 for one in results if counts_in_macro_f1(one.name, one.support)]
    return float(np.mean([score or 0.0 for score in scores])) if scores else None


def counts_in_macro_f1(name: str, support: float) -> bool:
    """True for a species with support enough for its F1 to mean something."""
    return name != EMPTY and support >= MACRO_SUPPORT


def share(part: float, whole: float) -> float | None:
    """Part of a whole, 0 to 1; None where there is no whole."""
    return part / whole if whole else None
