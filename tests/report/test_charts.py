"""Charts: round ticks, and shapes that lie where the numbers say."""

from serengeti_etl.report.charts import (
    Axis,
    Series,
    Stack,
    column_chart,
    line_chart,
)


def test_shares_are_written_in_percent() -> None:
    """With no more digits than the step has."""
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
