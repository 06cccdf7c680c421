"""Numbers to the shapes of charts, in px of a drawing 360 wide; ``charts.html`` draws them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from serengeti_etl.axis import ticks

WIDTH, HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 20, 10, 38

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """What one line shows.

    Attributes:
        name: in the legend; "" for none.
        points: in the order in which they are joined.
        kind: ``line``, ``dots`` (a line with a dot at each point) or ``guide`` (dashed, faint).
        colour: number of one of the page's colours of series.
    """

    name: str
    points: Sequence[Point]
    kind: str = "line"
    colour: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """One part of every column.

    Attributes:
        name: what it counts.
        heights: one for each column.
        colour: number of one of the page's colours of series.
    """

    name: str
    heights: Sequence[float]
    colour: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One side of a chart.

    Attributes:
        label: what is measured, with its unit.
        low: value at its start.
        high: value at its end.
        is_share: ticks are written as percentages.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    is_share: bool = False

    def ticks(self, most: int = 6) -> list[float]:
        """Round values on it, at most so many."""
        return ticks(self.low, self.high, most)

    def text(self, value: float) -> str:
        """A tick as it is written."""
        if self.is_share:
            return f"{100 * value:g} %"
        if abs(value) >= 10_000:  # noqa: PLR2004
            return f"{value / 1000:,g} k"
        return f"{value:,g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: its place along that axis.
        text: what is written there.
    """

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One series as shapes.

    Attributes:
        name: in the legend.
        kind: as of ``Series``.
        colour: likewise.
        path: of an SVG path.
        dots: places of dots.
    """

    name: str
    kind: str
    colour: int
    path: str
    dots: tuple[Point, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """One part of a column.

    Attributes:
        x: left.
        y: top.
        width: of it.
        height: of it.
        colour: number of one of the page's colours of series.
        title: said when it is pointed at.
    """

    x: float
    y: float
    width: float
    height: float
    colour: int
    title: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A chart as shapes.

    Attributes:
        left: of the plot.
        right: of the plot.
        top: of the plot.
        bottom: of the plot.
        x_label: below it.
        y_label: above it.
        x_ticks: along it.
        y_ticks: up it.
        lines: drawn over the grid.
        boxes: drawn below them.
    """

    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Drawn, ...] = ()
    boxes: tuple[Box, ...] = ()
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def line_chart(series: Sequence[Series], x: Axis, y: Axis) -> Chart:
    """Lines over two measures."""

    def place(point: Point) -> Point:
        return _across(point[0], x), _up(point[1], y)

    return Chart(
        x_label=x.label,
        y_label=y.label,
        x_ticks=tuple(Tick(at=_across(one, x), text=x.text(one)) for one in x.ticks()),
        y_ticks=tuple(Tick(at=_up(one, y), text=y.text(one)) for one in y.ticks()),
        lines=tuple(_drawn(one, [place(point) for point in one.points]) for one in series),
    )


def column_chart(labels: Sequence[str], stacks: Sequence[Stack], y_label: str) -> Chart:
    """Columns side by side, each of several parts one upon the other.

    Args:
        labels: one for each column; those that would not fit are not written.
        stacks: the parts of each column, from the bottom.
        y_label: what is counted.
    """
    tallest = max(map(sum, zip(*(stack.heights for stack in stacks), strict=True)), default=0)
    y = Axis(label=y_label, high=tallest or 1)
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    every = max(1, math.ceil(len(labels) / 8))
    return Chart(
        x_label="",
        y_label=y_label,
        x_ticks=tuple(
            Tick(at=round(_LEFT + (at + 0.5) * step, 2), text=label)
            for at, label in enumerate(labels)
            if at % every == 0
        ),
        y_ticks=tuple(Tick(at=_up(one, y), text=y.text(one)) for one in y.ticks()),
        boxes=tuple(_boxes(labels, stacks, y, step)),
    )


def _boxes(labels: Sequence[str], stacks: Sequence[Stack], y: Axis, step: float) -> Iterator[Box]:
    """The parts of all columns; what is nothing has none."""
    for at, label in enumerate(labels):
        below = 0.0
        for stack in stacks:
            height = stack.heights[at]
            if height > 0:
                yield Box(
                    x=round(_LEFT + at * step + step * 0.1, 2),
                    y=_up(below + height, y),
                    width=round(step * 0.8, 2),
                    height=round(_up(below, y) - _up(below + height, y), 2),
                    colour=stack.colour,
                    title=f"{label}: {height:,.0f} {stack.name}",
                )
            below += height


def _across(value: float, axis: Axis) -> float:
    return round(_LEFT + _share(value, axis) * (WIDTH - _LEFT - _RIGHT), 2)


def _up(value: float, axis: Axis) -> float:
    return round(HEIGHT - _BOTTOM - _share(value, axis) * (HEIGHT - _TOP - _BOTTOM), 2)


def _share(value: float, axis: Axis) -> float:
    reach = axis.high - axis.low
    return min(max((value - axis.low) / reach, 0.0), 1.0) if reach else 0.0


def _drawn(series: Series, points: Sequence[Point]) -> Drawn:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    return Drawn(
        name=series.name,
        kind=series.kind,
        colour=series.colour,
        path=f"M{path}" if path else "",
        dots=tuple(points) if series.kind == "dots" else (),
    )
