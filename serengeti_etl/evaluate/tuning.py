"""What is fitted on a split: aggregation, temperatures and thresholds; never on train.

Where the split that is judged is the one that was fitted on, a figure from it flatters. The score
is then also made by folds of sites: each fold is predicted with what the other folds would choose.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serengeti_etl.evaluate.captures import PredictedSplit, Strings
from serengeti_etl.evaluate.classes import THRESHOLD
from serengeti_etl.evaluate.curves import best_f1, precision_recall
from serengeti_etl.evaluate.reliability import reliability
from serengeti_etl.train.calibration import fit_temperatures
from serengeti_etl.train.metrics import binary_log_losses, mean_binary_log_loss
from serengeti_etl.train.predictions import Float64, Int64, Predictions
from serengeti_etl.train.sequences import (
    METHODS,
    WINNERS,
    Aggregation,
    Method,
    aggregate_sequences,
)
from serengeti_etl.train.serving import Serving

NUM_FOLDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregationChoice:
    """The best of all ways to aggregate, on the split that it was chosen on.

    Attributes:
        aggregation: the chosen one.
        score: with it.
        default_score: with the default one.
        animals: score with each method for animals, and the default for ``empty``.
        empty: score with each method for ``empty``, and the default for animals; {} if ``empty``
            is no class.
    """

    aggregation: Aggregation
    score: float
    default_score: float
    animals: Mapping[Method, float]
    empty: Mapping[Method, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What was fitted on a split, to be used on another.

    Attributes:
        choice: of the aggregation.
        temperatures_C: by which log odds of sequences are divided.
    """

    choice: AggregationChoice
    temperatures_C: Float64

    def apply(self, images: Predictions, empty: int | None) -> Predictions:
        """Sequences out of images, as ``Serving.sequences`` makes them."""
        serving = Serving(
            aggregation=self.choice.aggregation, temperatures=tuple(self.temperatures_C.tolist())
        )
        return serving.sequences(images, empty)


@dataclass(frozen=True, kw_only=True, slots=True)
class TuningResult:
    """What was fitted, and what it brings on the split that is judged.

    Attributes:
        tuned_on: split that it was fitted on.
        is_judged_split: whether that is the split that is judged: its figures then flatter.
        choice: of the aggregation, on ``tuned_on``.
        temperatures: by category; above 1 makes less sure; 1 where there was too little to fit.
        score: of the judged split with all that.
        cross_score: of the judged split, each fold of its sites by what the other folds choose;
            None with fewer than two sites, or where another split was tuned on.
        ece: expected calibration error over all sequences and classes, as tuned.
        untuned_ece: the same without.
    """

    tuned_on: str
    is_judged_split: bool
    choice: AggregationChoice
    temperatures: Mapping[str, float]
    score: float
    cross_score: float | None
    ece: float
    untuned_ece: float

    def serving(self, classes: Sequence[str], *, with_mirror: bool) -> Serving:
        """What was fitted, to be used by ``predict`` and submissions.

        Args:
            classes: categories in the order of the columns.
            with_mirror: whether it was fitted to the mean with mirror images.
        """
        return Serving(
            with_mirror=with_mirror,
            aggregation=self.choice.aggregation,
            temperatures=tuple(self.temperatures[name] for name in classes),
        )


def choose_aggregation(images: Predictions, empty: int | None) -> AggregationChoice:
    """The aggregation with the best score; on a draw the default.

    The score is a mean over classes, so the best methods for animals and for ``empty`` can be
    found apart.

    Args:
        images: of whole sequences, of a split that the model was not trained on.
        empty: position of ``empty`` among the classes; None if it is no class.
    """
    losses = {method: _losses(images, empty, method) for method in METHODS}
    num_classes = images.targets_NC.shape[1]
    is_empty_C = np.arange(num_classes) == (-1 if empty is None else empty)

    def score(animals: Method, of_empty: Method) -> float:
        return float(np.where(is_empty_C, losses[of_empty], losses[animals]).mean())

    animals = {method: score(method, WINNERS.empty) for method in METHODS}
    of_empty = {method: score(WINNERS.animals, method) for method in METHODS}
    best = Aggregation(
        animals=_best(animals, WINNERS.animals),
        empty=WINNERS.empty if empty is None else _best(of_empty, WINNERS.empty),
    )
    return AggregationChoice(
        aggregation=best,
        score=score(best.animals, best.empty),
        default_score=score(WINNERS.animals, WINNERS.empty),
        animals=animals,
        empty={} if empty is None else of_empty,
    )


def _losses(images: Predictions, empty: int | None, method: Method) -> Float64:
    """Loss of each class, (C,), if all are aggregated by the method."""
    aggregation = Aggregation(animals=method, empty=method)
    made = aggregate_sequences(images, empty, aggregation=aggregation)
    return np.asarray(binary_log_losses(made.targets_NC, made.probabilities_NC).mean(axis=0))


def _best(scores: Mapping[Method, float], default: Method) -> Method:
    # Rounding of sums is no reason to leave the default.
    return min(scores, key=lambda method: (round(scores[method], 9), method != default))


def fit_tuning(images: Predictions, empty: int | None) -> Tuning:
    """Aggregation and temperatures that suit a split; arguments as of ``choose_aggregation``."""
    choice = choose_aggregation(images, empty)
    sequences = aggregate_sequences(images, empty, aggregation=choice.aggregation)
    return Tuning(choice=choice, temperatures_C=fit_temperatures(sequences))


def f1_thresholds(sequences: Predictions) -> Float64:
    """For each class the threshold with the best F1, (C,); 0.5 where the class is never shown."""
    columns = zip(sequences.targets_NC.T, sequences.probabilities_NC.T, strict=True)
    best = [best_f1(precision_recall(shown_N, p_N)) for shown_N, p_N in columns]
    return np.array([THRESHOLD if one is None else one[1] for one in best])


def cross_fitted(predicted: PredictedSplit, empty: int | None, seed: int) -> Predictions | None:
    """Sequences, each fold of sites tuned on the other folds; None with fewer than two sites.

    Args:
        predicted: the split.
        empty: position of ``empty`` among the classes.
        seed: of the folds.
    """
    fold_N = _folds(predicted.captures.sites_N, seed)
    parts = []
    for fold in range(int(fold_N.max()) + 1):
        is_held_N = fold_N == fold
        if is_held_N.all():
            return None
        tuning = fit_tuning(predicted.images.take(~is_held_N), empty)
        parts.append(tuning.apply(predicted.images.take(is_held_N), empty))
    return Predictions(
        names=tuple(name for part in parts for name in part.names),
        seq_ids=tuple(name for part in parts for name in part.seq_ids),
        targets_NC=np.concatenate([part.targets_NC for part in parts]),
        probabilities_NC=np.concatenate([part.probabilities_NC for part in parts]),
    )


def _folds(sites_N: Strings, seed: int) -> Int64:
    """Fold of each image: sites in a keyed order, dealt out in turn."""

    def key(site: str) -> bytes:
        return hashlib.blake2b(f"fold {seed} {site}".encode(), digest_size=16).digest()

    order = sorted(set(sites_N.tolist()), key=key)
    fold_of = {site: at % NUM_FOLDS for at, site in enumerate(order)}
    return np.array([fold_of[site] for site in sites_N], dtype=np.int64)


def tuning_result(
    judged: PredictedSplit,
    tuned: PredictedSplit,
    classes: tuple[str, ...],
    empty: int | None,
    seed: int,
) -> TuningResult:
    """What tuning on one split brings on another, or on the same.

    Args:
        judged: the split that is judged.
        tuned: the split that is fitted on.
        classes: categories in the order of the columns.
        empty: position of ``empty`` among the classes.
        seed: of the folds of sites.
    """
    tuning = fit_tuning(tuned.images, empty)
    better, plain = tuning.apply(judged.images, empty), aggregate_sequences(judged.images, empty)
    is_same = judged.split == tuned.split
    crossed = cross_fitted(judged, empty, seed) if is_same else None
    return TuningResult(
        tuned_on=tuned.split,
        is_judged_split=is_same,
        choice=tuning.choice,
        temperatures=dict(zip(classes, tuning.temperatures_C.tolist(), strict=True)),
        score=_score(better),
        cross_score=None if crossed is None else _score(crossed),
        ece=_ece(better),
        untuned_ece=_ece(plain),
    )


def _score(sequences: Predictions) -> float:
    return mean_binary_log_loss(sequences.targets_NC, sequences.probabilities_NC)


def _ece(sequences: Predictions) -> float:
    return reliability(sequences.targets_NC.ravel(), sequences.probabilities_NC.ravel()).ece
