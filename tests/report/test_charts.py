"""Charts: round ticks, and shapes that lie where the numbers say."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.report.charts import (
    Axis,
    Series,
    Stack,
    column_chart,
    line_chart,
    ticks,
)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(4, 12))
def test_ticks_are_few_even_and_inside(low: float, reach: float, most: int) -> None:
    """At most so many, rising by one step, none outside of the axis, at least one."""
    found = ticks(low, low + reach, most)
    assert 1 <= len(found) <= most
    slack = 1e-6 * max(abs(low), reach)
    assert all(low - slack <= one <= low + reach + slack for one in found)
    steps = [after - before for before, after in itertools.pairwise(found)]
    assert all(step == pytest.approx(steps[0], rel=1e-6, abs=slack) for step in steps)


def test_ticks_are_round() -> None:
    """Shares get fifths, and no tick shows that 3 · 0.1 is not 0.3."""
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(0, 0.1) == [0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert ticks(5, 5) == [5]
    axis = Axis(label="", high=0.1, is_share=True)
    assert [axis.text(one) for one in axis.ticks()] == ["0 %", "2 %", "4 %", "6 %", "8 %", "10 %"]


def test_a_line_runs_through_its_points() -> None:
    """The lowest value lies on the axis, the highest on top, what lies beyond at the edge."""
    series = Series(name="a", points=[(0, 0), (5, 2), (10, 9)], kind="dots")
    drawn = line_chart([series], Axis(label="x", high=10), Axis(label="y", high=4))
    first, middle, last = drawn.lines[0].dots
    center = ((drawn.left + drawn.right) / 2, (drawn.top + drawn.bottom) / 2)
    assert [first, middle, last] == [
        (drawn.left, drawn.bottom),
        center,
        (drawn.right, drawn.top),
    ]
    assert drawn.lines[0].path.startswith(f"M{drawn.left} {drawn.bottom}L")


def test_columns_are_as_high_as_their_numbers() -> None:
    """Parts stand upon each other, in proportion, and say what they are; nothing has no box."""
    stacks = [
        Stack(name="a", heights=[4, 0]),
        Stack(name="b", heights=[2, 2], colour=2),
        Stack(name="c", heights=[2, 0], colour=3),
    ]
    drawn = column_chart(["x", "y"], stacks, "number")
    high = drawn.bottom - drawn.top
    assert [(box.colour, box.height) for box in drawn.boxes] == [
        (1, high / 2),
        (2, high / 4),
        (3, high / 4),
        (2, high / 4),
    ]
    assert drawn.boxes[0].y + drawn.boxes[0].height == drawn.bottom
    assert drawn.boxes[1].y + drawn.boxes[1].height == drawn.boxes[0].y
    assert drawn.boxes[2].y == drawn.top
    assert [box.title for box in drawn.boxes] == ["x: 4 a", "x: 2 b", "x: 2 c", "y: 2 b"]
    assert column_chart([], [], "nothing").boxes == ()
