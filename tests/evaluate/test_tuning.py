"""What is fitted on a split: it helps there, does no harm elsewhere, and is said."""

import numpy as np
import pytest

from serengeti_etl.evaluate.tuning import (
    choose_aggregation,
    cross_fitted,
    f1_thresholds,
    fit_tuning,
    tuning_result,
)
from serengeti_etl.train.metrics import mean_binary_log_loss
from serengeti_etl.train.predictions import Predictions
from serengeti_etl.train.sequences import METHODS, WINNERS, Aggregation, aggregate_sequences
from tests.predicted import CLASSES, Draw, images_of, predicted_split


def score(made: Predictions) -> float:
    return mean_binary_log_loss(made.targets_NC, made.probabilities_NC)


def test_the_best_of_all_aggregations_is_chosen() -> None:
    """None of the 25 pairs scores better, and each score told is that of its pair."""
    images = predicted_split().images
    choice = choose_aggregation(images, 0)
    pairs = {
        (animals, empty): score(
            aggregate_sequences(images, 0, aggregation=Aggregation(animals=animals, empty=empty))
        )
        for animals in METHODS
        for empty in METHODS
    }
    best = choice.aggregation
    assert choice.score == pytest.approx(min(pairs.values()), abs=1e-12)
    assert pairs[best.animals, best.empty] == pytest.approx(choice.score, abs=1e-12)
    assert choice.default_score == pytest.approx(pairs["mean", "geometric"], abs=1e-12)
    for method in METHODS:
        assert choice.animals[method] == pytest.approx(pairs[method, "geometric"], abs=1e-12)
        assert choice.empty[method] == pytest.approx(pairs["mean", method], abs=1e-12)


def test_the_largest_is_chosen_where_one_frame_of_three_tells() -> None:
    """By hand: an animal passes in one frame and is sure there; other animals never show."""
    probabilities = [[0.01, 0.99], [0.9, 0.01], [0.9, 0.01], [0.99, 0.01], [0.99, 0.01]]
    images = images_of("aaabb", [[0, 1]] * 3 + [[1, 0]] * 2, probabilities)
    choice = choose_aggregation(images, 0)
    assert choice.aggregation.animals == "max"
    assert choice.animals["max"] < choice.animals["mean"]
    assert choose_aggregation(images, None).empty == {}
    assert choose_aggregation(images, None).aggregation.empty == WINNERS.empty


def test_the_default_stays_where_nothing_is_better() -> None:
    """Of sequences of one frame every aggregation is the same."""
    images = predicted_split().images
    single = images_of(images.names, images.targets_NC, images.probabilities_NC)
    assert choose_aggregation(single, 0).aggregation == WINNERS


def test_tuning_helps_what_is_too_sure() -> None:
    """On another draw of the same world too, and the error of calibration falls."""
    sure, other = Draw(sharpness=6.0), Draw(sharpness=6.0, seed=1)
    result = tuning_result(
        predicted_split(other, "test"), predicted_split(sure), CLASSES, empty=0, seed=0
    )
    plain = score(aggregate_sequences(predicted_split(other).images, 0))
    assert result.score < 0.9 * plain
    assert result.ece < result.untuned_ece
    assert (result.tuned_on, result.is_judged_split, result.cross_score) == ("val", False, None)
    assert all(result.temperatures[name] > 1 for name in CLASSES[1:])


def test_a_split_tuned_on_itself_is_called_so() -> None:
    """And scored by folds of sites beside, which flatters less."""
    split = predicted_split(Draw(num_sequences=120, sharpness=4.0))
    result = tuning_result(split, split, CLASSES, empty=0, seed=0)
    assert (result.tuned_on, result.is_judged_split) == ("val", True)
    assert result.cross_score is not None
    assert result.cross_score > result.score


def test_a_fold_is_predicted_without_its_own_sites() -> None:
    """Of two sites each is tuned on the other; of one there is nothing to tune on."""
    split = predicted_split(Draw(num_sites=2, sharpness=5.0))
    crossed = cross_fitted(split, 0, seed=0)
    assert crossed is not None
    is_first = split.captures.sites_N == "site0"
    tuning = fit_tuning(split.images.take(~is_first), 0)
    expected = tuning.apply(split.images.take(is_first), 0)
    place_of = {name: at for at, name in enumerate(crossed.names)}
    assert len(place_of) == 240
    rows = [place_of[name] for name in expected.names]
    assert np.array_equal(crossed.probabilities_NC[rows], expected.probabilities_NC)
    assert np.array_equal(crossed.targets_NC[rows], expected.targets_NC)
    assert cross_fitted(predicted_split(Draw(num_sites=1)), 0, seed=0) is None


def test_thresholds_are_those_of_the_best_f1() -> None:
    """By hand: at 0.4 all positives and one more are found; a class never shown gets 0.5."""
    p = [[0.9, 0.1], [0.8, 0.1], [0.4, 0.1], [0.3, 0.1]]
    made = images_of("abcd", [[1, 0], [0, 0], [1, 0], [0, 0]], p)
    assert f1_thresholds(made).tolist() == [0.4, 0.5]
