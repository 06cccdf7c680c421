"""Curves of a run's records: thinned to a few hundred points, and drawn as SVG."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serengeti_etl.axis import ticks
from serengeti_etl.runs.records import plain_numbers

_MOST_POINTS = 240  # a px or two each, or noise becomes a block of colour
_WIDTH, _HEIGHT = 360.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 10.0, 22.0

_NUM_DIGITS, _MOST_DIGITS = 4, 10

Point = tuple[float, float]


class Curve:
    """Points in the order of x, thinned as they come: few are kept however many there are."""

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._each, self._waiting = 1, [0.0, 0.0, 0]

    def add(self, x: float, y: float) -> None:
        """One point more; where there are many, neighbours become their mean."""
        waiting = self._waiting
        waiting[0], waiting[1], waiting[2] = waiting[0] + x, waiting[1] + y, int(waiting[2]) + 1
        if waiting[2] < self._each:
            return
        self._points.append((waiting[0] / waiting[2], waiting[1] / waiting[2]))
        self._waiting = [0.0, 0.0, 0]
        if len(self._points) >= _MOST_POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairs]
            self._each *= 2

    @property
    def points(self) -> list[Point]:
        """At most 241, the last one included."""
        x, y, num = self._waiting
        return [*self._points, (x / num, y / num)] if num else list(self._points)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve of a chart.

    Attributes:
        label: what it shows.
        is_reference: drawn dashed: what there is to beat.
        points: x and y.
    """

    label: str
    is_reference: bool
    points: Sequence[Point]

    @property
    def last(self) -> float:
        """The latest value."""
        return self.points[-1][1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """Curves over the same axes.

    Attributes:
        title: what is shown.
        note: how to read it.
        has_zero: the axis begins at 0, so that a height means something.
        lines: the curves; each with a point at least.
    """

    title: str
    note: str
    has_zero: bool
    lines: Sequence[Line]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Wanted:
    title: str
    note: str
    names: Mapping[str, str]
    has_zero: bool = True
    scale: float = 1.0


_CHARTS = {
    "train": (
        _Wanted(
            title="Loss",
            note="of training, lower is better",
            names={"loss": "loss"},
            has_zero=False,
        ),
        _Wanted(
            title="Score",
            note="mean log loss of sequences, lower is better",
            names={"score": "score", "class_means_score": "class means"},
            has_zero=False,
        ),
        _Wanted(title="Speed", note="images per second", names={"images_per_second": "images/s"}),
        _Wanted(
            title="Data wait",
            note="% of the time spent waiting for batches",
            names={"data_wait": "data wait"},
            scale=100.0,
        ),
    ),
    "convert": (
        _Wanted(title="Speed", note="images per second", names={"images_per_second": "images/s"}),
        _Wanted(title="Read", note="megabytes per second", names={"mb_per_second": "MB/s"}),
        _Wanted(title="Rejected", note="images so far", names={"rejected": "rejected"}),
    ),
}
_REFERENCES = {"class_means_score"}


class Curves:
    """The curves of a run, brought up to date record by record."""

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}
        self._num_taken = 0

    def take(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add those that are new of all ``records``."""
        num_records = len(records)
        for record in records[self._num_taken : num_records]:
            for name, value in plain_numbers(record).items():
                self._curves.setdefault(name, Curve()).add(record.get("step", 0), value)
        self._num_taken = num_records

    def charts(self, kind: str) -> tuple[Chart, ...]:
        """What is worth showing of a run of this kind, as far as there is something."""
        return tuple(self._charts(kind))

    def _charts(self, kind: str) -> Iterator[Chart]:
        for wanted in _CHARTS[kind]:
            lines = tuple(
                Line(
                    label=label,
                    is_reference=name in _REFERENCES,
                    points=[(x, y * wanted.scale) for x, y in self._curves[name].points],
                )
                for name, label in wanted.names.items()
                if name in self._curves
            )
            if lines:
                has_zero = wanted.has_zero
                yield Chart(title=wanted.title, note=wanted.note, has_zero=has_zero, lines=lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """A mark at an axis.

    Attributes:
        at: px from the left or the top.
        text: what is said there.
    """

    at: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """A chart in px, for the template.

    Attributes:
        chart: what is drawn.
        width: of all of it.
        height: likewise.
        left: of the field within.
        right: likewise.
        top: likewise.
        bottom: likewise.
        paths: ``d`` of each line's path.
        ends: place of each line's last point.
        x_ticks: below.
        y_ticks: at the left.
        marks: where stages begin, with their names.
    """

    chart: Chart
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    paths: tuple[str, ...]
    ends: tuple[Point, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Tick, ...]


def draw(chart: Chart, marks: Sequence[tuple[int, str]], num_steps: int | None) -> Drawing:
    """The chart in px.

    Args:
        chart: with a point at least.
        marks: step at which each stage begins, with its name.
        num_steps: of the run in all, up to which the axis goes; None while unknown.
    """
    xs = [x for line in chart.lines for x, _ in line.points]
    ys = [y for line in chart.lines for _, y in line.points]
    last = max(*xs, num_steps or 0, 1)
    low, high = _range(min(*ys, 0.0) if chart.has_zero else min(ys), max(ys))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def place(x: float, y: float) -> Point:
        share, up = x / last, (y - low) / (high - low)
        return _LEFT + share * (right - _LEFT), bottom - up * (bottom - _TOP)

    placed = [[place(x, y) for x, y in line.points] for line in chart.lines]
    return Drawing(
        chart=chart,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=right,
        top=_TOP,
        bottom=bottom,
        paths=tuple("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) for points in placed),
        ends=tuple(points[-1] for points in placed),
        x_ticks=tuple(Tick(at=place(x, low)[0], text=text) for x, text in _labelled(0, last, 6)),
        y_ticks=tuple(Tick(at=place(0, y)[1], text=text) for y, text in _labelled(low, high, 5)),
        marks=tuple(Tick(at=place(x, low)[0], text=name) for x, name in marks if 0 <= x < last),
    )


def _range(low: float, high: float) -> Point:
    """What an axis spans for values between; never nothing."""
    is_flat = high - low <= 1e-9 * abs(high)
    room = (abs(high) * 0.1 or 1.0) if is_flat else (high - low) * 0.06
    # Nothing shown here is below 0, and where it comes near, one wants to see it.
    bottom = 0.0 if 0 <= low < (high - low) * 1.5 or low == high == 0 else low - room
    return bottom, high + room


def _labelled(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round numbers with their texts, in as many digits as tell them apart."""
    found = ticks(low, high, most)
    for digits in range(_NUM_DIGITS, _MOST_DIGITS):
        texts = [short_number(one, digits) for one in found]
        if len(set(texts)) == len(texts):
            break
    return list(zip(found, texts, strict=True))


def short_number(value: float, digits: int = _NUM_DIGITS) -> str:
    """As people write it on an axis: ``1.2k``, ``0.035``."""
    if 1e3 <= abs(value) < 1e4:  # noqa: PLR2004 - where digits want a comma
        return f"{value:,.{digits - 4}f}"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scaled = value / {"G": 1e9, "M": 1e6, "k": 1e3}[suffix]
            return f"{scaled:.{digits}g}{suffix}"
    return f"{value:.{digits}g}"
