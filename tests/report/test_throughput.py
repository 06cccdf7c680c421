"""Throughput: images over time, as a conversion records it."""

import json
from pathlib import Path

import pytest

from serengeti_etl.report.throughput import _MAX_POINTS, read_throughput
from serengeti_etl.storage import Store


def written(folder: Path, lines: list[str]) -> Store:
    (folder / "run").mkdir()
    (folder / "run" / "metrics.jsonl").write_text("\n".join(lines))
    return Store(url=str(folder))


def row(time: float, step: float) -> str:
    return json.dumps({"time": time, "step": step, "images_per_second": 5.0})


def test_rates_are_images_by_seconds(tmp_path: Path) -> None:
    """Between two records, in hours from the first."""
    found = read_throughput(written(tmp_path, [row(1000, 0), row(1360, 720), row(4600, 1044)]))
    assert found is not None
    assert found.rates == ((0.0, 2.0), (0.1, 0.1))
    assert (found.seconds, found.num_images, found.num_starts) == (3600, 1044, 1)
    assert found.rate == pytest.approx(0.29)


def test_a_conversion_that_went_on_is_told(tmp_path: Path) -> None:
    """A count that falls is a new process; the time between does not count."""
    lines = [row(0, 0), row(100, 500), row(9000, 100), row(9100, 300)]
    found = read_throughput(written(tmp_path, lines))
    assert found is not None
    assert (found.seconds, found.num_images, found.num_starts) == (200, 700, 2)


def test_long_records_are_thinned_without_losing_images(tmp_path: Path) -> None:
    """A few points for a chart, whose mean is the rate on the whole."""
    found = read_throughput(written(tmp_path, [row(at, at * 3) for at in range(5001)]))
    assert found is not None
    assert len(found.rates) <= _MAX_POINTS
    assert all(rate == pytest.approx(3) for _, rate in found.rates)
    assert found.num_images == 15_000


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [row(0, 0)],
        ["nonsense", "[]", '{"time": 1}', row(0, 7), row(9, 7)],
        [row(5, 1), row(5, 9)],
    ],
)
def test_records_that_say_nothing_are_none(tmp_path: Path, lines: list[str]) -> None:
    """Damaged lines, a single one, or no image at all: there is no throughput to show."""
    assert read_throughput(written(tmp_path, lines)) is None
    assert read_throughput(Store(url=str(tmp_path / "elsewhere"))) is None
