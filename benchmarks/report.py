"""What tables of these benchmarks are made of: medians with their range, ratios, Markdown."""

import statistics
from collections.abc import Iterable, Sequence

Spread = dict[str, float]
"""Median, least and most of the rounds, by these names: ``median``, ``min``, ``max``."""


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most."""
    known = [float(value) for value in values]
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def ratios(ones: Iterable[float], others: Iterable[float]) -> Spread:
    """Median, least and most of the ratios of what was measured in the same round."""
    return spread(one / other for one, other in zip(ones, others, strict=False))


def text(values: Spread, scale: float = 1.0, digits: int = 1) -> str:
    """Median (least–most)."""
    middle, low, high = (values[key] * scale for key in ("median", "min", "max"))
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def print_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """As Markdown, in columns."""
    print()
    cells = [list(head), *([*line, *[""] * (len(head) - len(line))] for line in lines)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(head))]
    cells.insert(1, ["-" * width for width in widths])
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print(f"| {' | '.join(padded)} |")
    print()
