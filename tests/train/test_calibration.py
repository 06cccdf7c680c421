"""Temperatures and the odds of a thinned ``empty``."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.train.calibration import (
    fit_temperatures,
    prior_shift,
    with_prior_shift,
    with_temperatures,
)
from serengeti_etl.train.metrics import binary_log_losses
from serengeti_etl.train.predictions import Float64, Predictions, logits, sigmoid
from tests.predicted import images_of


def drawn(sharpness: float, num_samples: int = 4000, seed: int = 0) -> Predictions:
    """Samples of two classes whose log odds are ``sharpness`` times what they should be."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 2, (num_samples, 2))
    targets = rng.random(z.shape) < sigmoid(z)
    return images_of(["s"] * num_samples, targets, sigmoid(sharpness * z))


def losses(predictions: Predictions) -> Float64:
    return np.asarray(
        binary_log_losses(predictions.targets_NC, predictions.probabilities_NC).mean(axis=0)
    )


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_a_temperature_undoes_what_made_probabilities_too_sure(sharpness: float) -> None:
    """Log odds that were multiplied by a factor get about that temperature."""
    assert fit_temperatures(drawn(sharpness)) == pytest.approx([sharpness] * 2, rel=0.1)


def test_the_temperature_is_where_the_penalised_loss_is_least() -> None:
    """No inverse temperature of a fine grid does better, to the sixth digit."""
    made = drawn(3.0, 200)
    z, targets = logits(made.probabilities_NC), made.targets_NC
    best = 1 / fit_temperatures(made)
    grid = np.linspace(0.05, 3, 5901)[:, None, None]
    loss = (np.logaddexp(0, grid * z) - targets * grid * z).sum(axis=1)
    loss += 5.0 * (grid[:, :, 0] - 1) ** 2
    assert best == pytest.approx(grid[loss.argmin(axis=0), 0, 0], abs=5e-4)


@settings(deadline=None)
@given(
    sharpness=st.floats(0, 30),
    seed=st.integers(0, 99),
    num_samples=st.integers(1, 120),
    min_support=st.integers(0, 30),
)
def test_no_class_gets_worse_on_what_it_was_fitted_on(
    sharpness: float, seed: int, num_samples: int, min_support: int
) -> None:
    """Whatever the predictions, sure and wrong ones among them."""
    made = drawn(sharpness, num_samples, seed)
    made.probabilities_NC[0] = (0.0, 1.0)
    fitted = with_temperatures(made, fit_temperatures(made, min_support=min_support))
    assert (losses(fitted) <= losses(made) + 1e-12).all()
    assert ((fitted.probabilities_NC >= 0) & (fitted.probabilities_NC <= 1)).all()


def test_classes_with_little_support_keep_their_probabilities() -> None:
    """19 positives are too few, 20 are enough; what is not fitted does not change by a bit."""
    made = drawn(3.0, 400)
    for column, num_positive in enumerate((19, 20)):
        made.targets_NC[:, column] = np.arange(400) < num_positive
    temperatures = fit_temperatures(made)
    assert temperatures[0] == 1
    assert temperatures[1] != 1
    fitted = with_temperatures(made, temperatures)
    assert np.array_equal(fitted.probabilities_NC[:, 0], made.probabilities_NC[:, 0])
    assert not np.allclose(fitted.probabilities_NC[:, 1], made.probabilities_NC[:, 1])


def test_few_sequences_move_a_temperature_less_than_many() -> None:
    """The same evidence, once and 100 times over: shrinkage holds only the first back."""
    few = drawn(3.0, 60)
    many = images_of(
        ["s"] * 6000, np.tile(few.targets_NC, (100, 1)), np.tile(few.probabilities_NC, (100, 1))
    )
    assert (fit_temperatures(few) < fit_temperatures(many)).all()
    assert (fit_temperatures(few) > 1).all()
    with pytest.raises(ConfigError, match="shrinkage is 0"):
        fit_temperatures(few, shrinkage=0)


def test_the_shift_by_hand() -> None:
    """A share of 3 in 4 thinned to 1 in 2: odds of 3 became 1, so ln 3 is added."""
    priors = {"before": {"shares": {"empty": 0.75}}, "after": {"shares": {"empty": 0.5}}}
    assert prior_shift(priors) == pytest.approx(np.log(3))
    assert prior_shift({}) == 0
    assert prior_shift({"before": priors["before"], "after": priors["before"]}) == 0
    none_left = {"before": priors["before"], "after": {"shares": {"zebra": 1.0}}}
    assert prior_shift(none_left) == 0


def test_a_thinned_world_is_put_right_exactly() -> None:
    """By Bayes' rule on a world of two looks and two classes, counted out by hand."""
    # Look A: 90 empty, 10 zebra. Look B: 30 empty, 70 zebra. Thinned: a third of the empty stay.
    thinned = images_of("ab", np.zeros((2, 2)), [[30 / 40, 10 / 40], [10 / 80, 70 / 80]])
    priors = {"before": {"shares": {"empty": 120 / 200}}, "after": {"shares": {"empty": 40 / 120}}}
    right = with_prior_shift(thinned, 0, prior_shift(priors))
    assert np.allclose(right.probabilities_NC, [[0.9, 0.1], [0.3, 0.7]], rtol=0, atol=1e-15)
    shifted = sigmoid(logits(thinned.probabilities_NC[:, 0]) + np.log(3))
    assert np.allclose(right.probabilities_NC[:, 0], shifted, rtol=0, atol=1e-15)
    assert with_prior_shift(thinned, 0, 0.0) is thinned


def test_what_is_sure_stays_sure_under_a_shift() -> None:
    """Probabilities of 0 and 1 neither change nor leave their range."""
    sure = images_of("ab", np.zeros((2, 2)), [[1.0, 0.0], [0.0, 1.0]])
    for shift in (5.0, -5.0):
        made = with_prior_shift(sure, 0, shift).probabilities_NC
        assert np.allclose(made, sure.probabilities_NC, rtol=0, atol=1e-15)
    bold = replace(sure, probabilities_NC=np.ones((2, 2)))
    assert with_prior_shift(bold, 0, -5.0).probabilities_NC.max() <= 1
