"""Blanks found and animals lost, by hand and against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score

from serengeti_etl.evaluate.blanks import MAX_POINTS, blank_result, blank_threshold
from tests.predicted import images_of

P_EMPTY = [0.99, 0.95, 0.9, 0.8, 0.7, 0.2]
IS_EMPTY = [1, 1, 0, 1, 0, 0]
MADE = images_of("abcdef", np.array(IS_EMPTY)[:, None], np.array(P_EMPTY)[:, None])


@pytest.mark.parametrize(
    ("threshold", "precision", "recall", "missed", "called"),
    [
        (0.95, 1.0, 2 / 3, 0.0, 2 / 6),
        (0.9, 2 / 3, 2 / 3, 1 / 3, 3 / 6),
        (0.85, 2 / 3, 2 / 3, 1 / 3, 3 / 6),
        (0.0, 3 / 6, 1.0, 1.0, 1.0),
        (1.0, None, 0.0, 0.0, 0.0),
    ],
)
def test_blanks_by_hand(
    threshold: float, precision: float | None, recall: float, missed: float, called: float
) -> None:
    """Six sequences, three of them empty; a threshold counts from itself upwards."""
    chosen = blank_result(MADE, 0, threshold).chosen
    assert chosen.threshold == threshold
    assert (chosen.precision, chosen.recall) == (precision, recall)
    assert (chosen.missed, chosen.called) == (missed, called)


@pytest.mark.parametrize(
    ("max_missed", "threshold"), [(0.0, 0.95), (0.33, 0.95), (0.34, 0.8), (0.67, 0.7), (1.0, 0.2)]
)
def test_the_threshold_finds_as_many_blanks_as_it_may(max_missed: float, threshold: float) -> None:
    """Of three sequences with animals none, none, one, two or all may be lost."""
    assert blank_threshold(MADE, 0, max_missed) == threshold


@pytest.mark.parametrize("num_missed", [3, 5, 6, 10])
def test_a_share_just_below_allows_one_less(num_missed: int) -> None:
    """Of 26 animals, what is a rounding below three of them allows two."""
    p = np.linspace(0, 1, 26)
    made = images_of(["s"] * 26, np.zeros((26, 1)), p[:, None])
    for max_missed, expected in (
        (np.nextafter(num_missed / 26, 0), num_missed - 1),
        (num_missed / 26, num_missed),
    ):
        threshold = blank_threshold(made, 0, float(max_missed))
        assert (p >= threshold).sum() == expected


def test_none_is_called_blank_where_the_surest_blank_is_an_animal() -> None:
    """The threshold is then beyond 1, even if the animal is thought empty for sure."""
    made = images_of("ab", [[0], [1]], [[1.0], [0.9]])
    chosen = blank_result(made, 0, blank_threshold(made, 0, 0.0)).chosen
    assert (chosen.missed, chosen.called, chosen.precision) == (0, 0, None)


@settings(deadline=None)
@given(
    data=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=30),
    max_missed=st.floats(0, 1),
)
def test_the_curve_equals_scikit_learns(data: list[tuple[bool, int]], max_missed: float) -> None:
    """Precision and recall at each of its points; a threshold loses no more than it may."""
    shown = np.array([one for one, _ in data], dtype=float)
    p = np.array([one / 9 for _, one in data])
    made = images_of(["s"] * len(p), shown[:, None], p[:, None])
    threshold = blank_threshold(made, 0, max_missed)
    result = blank_result(made, 0, threshold)
    assert [point.threshold for point in result.curve] == sorted(set(p.tolist()), reverse=True)
    for point in result.curve:
        called = p >= point.threshold
        assert point.precision == pytest.approx(precision_score(shown, called), abs=1e-12)
        if shown.any():
            assert point.recall == pytest.approx(recall_score(shown, called), abs=1e-12)
        assert point.called == pytest.approx(called.mean())
    assert (result.chosen.missed or 0) <= max_missed


def test_a_long_curve_is_thinned_to_its_ends() -> None:
    """At most 101 points, the first and the last threshold among them."""
    p = np.linspace(0.001, 0.999, 5000)
    result = blank_result(images_of(["s"] * 5000, (p > 0.5)[:, None], p[:, None]), 0, 0.5)
    assert len(result.curve) == MAX_POINTS
    assert [result.curve[0].threshold, result.curve[-1].threshold] == [p[-1], p[0]]
