"""Round numbers along an axis."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.axis import ticks


@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e6), st.integers(4, 12))
def test_ticks_are_few_even_and_inside(low: float, reach: float, most: int) -> None:
    """At most so many, rising by one step, none outside, also of a little of large numbers."""
    high = low + reach
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most
    slack = 1e-5 * (high - low) + 1e-15 * abs(low)
    assert all(low - slack <= one <= high + slack for one in found)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(0 < step == pytest.approx(steps[0], rel=1e-6, abs=slack) for step in steps)


def test_ticks_are_round() -> None:
    """Shares get fifths, and no tick shows that 3 · 0.1 is not 0.3."""
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 0.1) == [0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert ticks(0.013, 0.061, 5) == [0.02, 0.04, 0.06]
    assert ticks(0, 132, 5) == [0, 50, 100]
    assert ticks(5, 5) == [5]
