"""What tables of these benchmarks are made of: medians with their range, ratios, Markdown."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

SampleT = TypeVar("SampleT")

Spread = dict[str, float]
"""Median, least and most of the rounds, by these names: ``median``, ``min``, ``max``."""


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most."""
    known = [float(value) for value in values]
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def ratios(ones: Iterable[float], others: Iterable[float]) -> Spread:
    """Median, least and most of the ratios of what was measured in the same round."""
    return spread(one / other for one, other in zip(ones, others, strict=False))


@dataclass(kw_only=True, slots=True)
class Rounds(Generic[SampleT]):
    """All rounds of one of those that are compared.

    Attributes:
        samples: one per round.
        failed: why there is no more; empty if all is well.
    """

    samples: list[SampleT] = field(default_factory=list)
    failed: str = ""

    def values(self, key: str) -> list[float]:
        """One of each round."""
        return [getattr(one, key) for one in self.samples]

    def spread(self, key: str) -> Spread:
        """Median, least and most of the rounds."""
        return spread(self.values(key))

    def ratio(self, other: Self, key: str = "rate") -> Spread:
        """Median, least and most of the rounds' ratios to another's."""
        return ratios(self.values(key), other.values(key))

    def told(self, name: str, title: str, keys: Iterable[str]) -> dict[str, object]:
        """For the line of JSON: who it is, and why it failed or how each of ``keys`` spread."""
        who: dict[str, object] = {"name": name, "title": title}
        if self.failed:
            return who | {"failed": self.failed}
        return who | {key: self.spread(key) for key in keys}


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
