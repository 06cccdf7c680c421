"""Two drivers at one output: the second is refused, and the first ends as if alone."""

import time
from pathlib import Path

import pytest

from serengeti_etl import lease
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season, convert_sizes
from serengeti_etl.convert.tally import Progress
from serengeti_etl.errors import OutputHeld
from serengeti_etl.lease import LEASE_FILE, Holder
from serengeti_etl.storage import Store
from tests.conftest import files_below
from tests.convert.test_sizes import sizes_pipeline
from tests.leases import elsewhere, lose


def test_the_second_is_refused_and_the_first_not_disturbed(
    pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Tried again after each shard of the first, whose bytes are those of one that was alone."""
    alone, output = str(tmp_path / "alone"), str(tmp_path / "out")
    convert_season(pipeline, SerialRunner(), alone)
    num_refused = 0

    def second(progress: Progress) -> None:  # noqa: ARG001
        nonlocal num_refused
        with pytest.raises(OutputHeld, match=f"{output} is being written by process"):
            convert_season(pipeline, SerialRunner(), output)
        num_refused += 1

    made = convert_season(pipeline, SerialRunner(), output, second)
    assert num_refused == len(made.index.shards)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "alone")
    assert LEASE_FILE not in files_below(tmp_path / "out")
    # One that has nothing to do is refused as well: it would rewrite dataset.json.
    with lease.hold(Store(url=output)), pytest.raises(OutputHeld):
        convert_season(pipeline, SerialRunner(), output)


def test_of_several_sizes_the_whole_output_is_held(season: Path, tmp_path: Path) -> None:
    """One lease where the folders of the sizes are, and none left in any of them."""
    seen: list[list[str]] = []

    def look(progress: Progress) -> None:  # noqa: ARG001
        seen.append([str(path.relative_to(tmp_path)) for path in tmp_path.rglob(LEASE_FILE)])

    convert_sizes(sizes_pipeline(str(season)), SerialRunner(), str(tmp_path), look)
    assert seen == [[LEASE_FILE]] * len(seen)
    assert not list(tmp_path.rglob(LEASE_FILE))


def test_one_that_was_taken_over_stops_at_the_next_shard(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says who has the output now and finishes nothing; the same call later gives the bytes."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 0.3)
    output, other, seen = Store(url=str(tmp_path / "out")), elsewhere(600), []

    def taken_over(progress: Progress) -> None:
        seen.append(progress.name)
        lose(tmp_path / "out", other)

    with pytest.raises(OutputHeld, match=r"was taken over by process .* on far-away"):
        convert_season(pipeline, SerialRunner(), output.url, taken_over)
    assert len(seen) == 1
    assert not output.exists("dataset.json")
    assert Holder.from_bytes(output.read(LEASE_FILE)) == other
    output.delete(LEASE_FILE)
    convert_season(pipeline, SerialRunner(), output.url)
    convert_season(pipeline, SerialRunner(), str(tmp_path / "alone"))
    assert files_below(tmp_path / "out") == files_below(tmp_path / "alone")


def test_a_machine_that_died_is_waited_for(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes its place, or itself after a boot, goes on when no renewal came for a life."""
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1.0)
    left = elsewhere(600)
    (tmp_path / LEASE_FILE).write_bytes(left.as_bytes())
    started = time.monotonic()
    convert_season(pipeline, SerialRunner(), str(tmp_path))
    assert time.monotonic() - started >= 1.0
    assert (tmp_path / "dataset.json").exists()
    assert not (tmp_path / LEASE_FILE).exists()
