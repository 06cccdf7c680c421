"""Precision, recall, F1 and reliability against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve

from serengeti_etl.evaluate.curves import average_precision, best_f1, f1, precision_recall
from serengeti_etl.evaluate.reliability import reliability

samples = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=40)


def arrays(data: list[tuple[bool, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([float(shown) for shown, _ in data]), np.array([one / 20 for _, one in data])


@settings(deadline=None)
@given(data=samples)
def test_the_curve_and_its_area_equal_scikit_learns(data: list[tuple[bool, int]]) -> None:
    """With ties and all, to 1e-12; the area is None where nothing is positive."""
    targets, scores = arrays(data)
    curve = precision_recall(targets, scores)
    area = average_precision(curve)
    if targets.sum() == 0:
        assert area is None
        assert best_f1(curve) is None
        return
    precision, recall, thresholds = precision_recall_curve(targets, scores)
    assert np.allclose(curve.thresholds_T[::-1], thresholds, rtol=0, atol=1e-12)
    assert np.allclose(curve.precisions[::-1], precision[:-1], rtol=0, atol=1e-12)
    assert np.allclose(curve.recalls[::-1], recall[:-1], rtol=0, atol=1e-12)
    assert area is not None
    assert abs(area - average_precision_score(targets, scores)) < 1e-12


@settings(deadline=None)
@given(data=samples)
def test_f1_equals_scikit_learns_and_none_is_better(data: list[tuple[bool, int]]) -> None:
    """At every threshold, to 1e-12; the best one is the largest of them, at its own threshold."""
    targets, scores = arrays(data)
    at_all = {one: f1(targets, scores >= one) for one in set(scores.tolist())}
    for threshold, score in at_all.items():
        assert score is not None
        assert abs(score - f1_score(targets, scores >= threshold, zero_division=0)) < 1e-12
    best = best_f1(precision_recall(targets, scores))
    if best is not None:
        assert best[0] == pytest.approx(max(score or 0 for score in at_all.values()), abs=1e-12)
        assert at_all[best[1]] == pytest.approx(best[0], abs=1e-12)


def test_f1_without_anything_is_none() -> None:
    """Nothing shown and nothing found has no F1; something found in vain has 0."""
    assert f1(np.zeros(3), np.zeros(3, dtype=bool)) is None
    assert f1(np.zeros(3), np.ones(3, dtype=bool)) == 0


@settings(deadline=None)
@given(data=samples, num_bins=st.integers(1, 12))
def test_reliability_equals_scikit_learns(data: list[tuple[bool, int]], num_bins: int) -> None:
    """Bins with their means and shares, edges included, to 1e-12."""
    targets, scores = arrays(data)
    made = reliability(targets, scores, num_bins)
    shown, predicted = calibration_curve(targets, scores, n_bins=num_bins)
    assert [one.share_shown for one in made.bins] == pytest.approx(shown, abs=1e-12)
    assert [one.mean_prediction for one in made.bins] == pytest.approx(predicted, abs=1e-12)
    assert sum(one.count for one in made.bins) == len(data)


def test_the_calibration_error_by_hand() -> None:
    """Two bins: 0.1 and 0.2 against 1 in 2, 0.9 against 1 in 1: (2 * 0.35 + 0.1) / 3."""
    made = reliability(np.array([0.0, 1, 1]), np.array([0.1, 0.2, 0.9]), num_bins=2)
    assert made.ece == pytest.approx((2 * 0.35 + 0.1) / 3)
    assert reliability(np.array([0.0, 1]), np.array([0.0, 1.0])).ece == 0
