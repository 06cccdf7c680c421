"""What a conversion's record of its progress says: images over time."""

import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

from serengeti_etl.report.charts import Point
from serengeti_etl.runs.status import METRICS_FILE
from serengeti_etl.storage import Store

RUN_FOLDER = "run"
"""Of a dataset: where its conversion says how far it is."""

_MAX_POINTS = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """How fast photographs came.

    Attributes:
        rates: hours since the start, and images per second from then to the next one.
        seconds: from first to last.
        num_images: in that time.
        num_starts: processes that took part: a stopped conversion was gone on with.
    """

    rates: tuple[Point, ...]
    seconds: float
    num_images: int
    num_starts: int

    @property
    def rate(self) -> float:
        """Images per second on the whole."""
        return self.num_images / self.seconds


def read_throughput(output: Store) -> Throughput | None:
    """Of the conversion into ``output``; None where it left no record that says anything.

    Raises:
        OSError: the store failed on every try.
    """
    try:
        content = output.read(f"{RUN_FOLDER}/{METRICS_FILE}")
    except FileNotFoundError:
        return None
    rows = [_row(line) for line in content.decode("utf-8", errors="replace").splitlines()]
    return _throughput([row for row in rows if row is not None])


def _row(line: str) -> tuple[float, float] | None:
    """Time and images so far; None for a line that says something else."""
    try:
        value: Any = json.loads(line)
        moment, step = float(value["time"]), float(value["step"])
    except (ValueError, KeyError, TypeError):
        return None
    return (moment, step) if math.isfinite(moment) and math.isfinite(step) else None


def _throughput(rows: list[tuple[float, float]]) -> Throughput | None:
    # A conversion that goes on finds what is there again, within a moment: no throughput.
    parts: list[tuple[float, float, float]] = []
    num_starts = 1
    for (before, was), (now, step) in itertools.pairwise(rows):
        if step < was:
            num_starts += 1
        elif now > before:
            parts.append((before, now, step - was))
    total = sum(images for _, _, images in parts)
    if not total:
        return None
    seconds = sum(now - before for before, now, _ in parts)
    return Throughput(
        rates=_thinned(parts, rows[0][0]),
        seconds=seconds,
        num_images=int(total),
        num_starts=num_starts,
    )


def _thinned(parts: list[tuple[float, float, float]], start: float) -> tuple[Point, ...]:
    """Few enough points, each the mean of neighbours."""
    every = math.ceil(len(parts) / _MAX_POINTS)
    points = []
    for at in range(0, len(parts), every):
        some = parts[at : at + every]
        spent = sum(now - before for before, now, _ in some)
        points.append(((some[0][0] - start) / 3600, sum(one[2] for one in some) / spent))
    return tuple(points)
