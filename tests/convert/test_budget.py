"""Budgets of rejects; and faults that pass never become one."""

import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl import retry
from serengeti_etl.buckets import client
from serengeti_etl.buckets.bucket import close_buckets
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline, ShardSettings
from serengeti_etl.convert import shard as shard_module
from serengeti_etl.convert.season import convert_season, convert_sizes
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.errors import ConfigError, Incomplete, TooManyFailures
from tests.conftest import files_below, season_pipeline
from tests.convert.test_sizes import sizes_pipeline
from tests.fault_server import (
    BUCKET,
    INTERNAL_ERROR,
    SLOW_DOWN,
    EarlyClose,
    Fault,
    FaultServer,
    Reset,
    Stall,
    fault_server,
)

SHARDS = ShardSettings(max_samples=64)
PASSING: list[Fault] = [
    SLOW_DOWN,
    INTERNAL_ERROR,
    Reset(),
    Reset(after=50),
    EarlyClose(after=50),
    Stall(after=50),
]


def convert(pipeline: SeasonPipeline, output: Path) -> None:
    convert_season(pipeline, SerialRunner(), str(output))


def broken_copy(season: Path, folder: Path, share: float) -> Path:
    """The season with that share of its photographs cut to nothing."""
    shutil.copytree(season, folder)
    paths = sorted(path for path in (folder / "images").rglob("*") if path.is_file())
    for path in paths[: int(share * len(paths))]:
        path.write_bytes(b"<html>we are down for maintenance</html>")
    return folder


def test_a_shard_of_mostly_rejects_fails_instead(
    season: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that answers nonsense leaves no rejects: once it is well, the bytes are right."""
    monkeypatch.setattr(shard_module, "MIN_JUDGED", 10)  # the drawn season is small
    source = broken_copy(season, tmp_path / "source", 1.0)
    pipeline = replace(season_pipeline(str(source)), shards=SHARDS, max_reject_share=1.0)
    with pytest.raises(Incomplete) as failed:
        convert(pipeline, tmp_path / "out")
    for words in (
        "2 shards failed",
        "photographs are refused already ({'not_an_image': ",
        "for example S",
        "above max_shard_reject_share (0.5)",
        "raise it in the pipeline file",
    ):
        assert words in str(failed.value)
    assert not list((tmp_path / "out").glob("index/*"))
    assert not list((tmp_path / "out").glob("train/*"))
    assert [path.name for path in (tmp_path / "out" / "rejects").iterdir()] == ["plan.parquet"]
    shutil.rmtree(source)
    shutil.copytree(season, source)
    convert(pipeline, tmp_path / "out")
    convert(replace(pipeline, source=str(season)), tmp_path / "good")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "good")


def test_a_larger_budget_takes_them_and_the_bytes_do_not_depend_on_it(
    season: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly at the share a shard is committed, above it fails, and small shards are let be."""
    pipeline = replace(season_pipeline(str(season)), shards=SHARDS)
    convert(pipeline, tmp_path / "usual")
    shards = open_dataset(str(tmp_path / "usual")).info.shards
    sizes = {one.name: one.num_samples + one.num_rejected for one in shards}
    worst = max(shards, key=lambda one: one.num_rejected / sizes[one.name])
    share = worst.num_rejected / sizes[worst.name]
    assert share > 0
    monkeypatch.setattr(shard_module, "MIN_JUDGED", sizes[worst.name])
    convert(replace(pipeline, max_shard_reject_share=share), tmp_path / "exact")
    assert files_below(tmp_path / "exact") == files_below(tmp_path / "usual")
    below = replace(pipeline, max_shard_reject_share=share - 0.001)
    with pytest.raises(Incomplete, match=worst.name):
        convert(below, tmp_path / "less")
    monkeypatch.setattr(shard_module, "MIN_JUDGED", sizes[worst.name] + 1)
    convert(below, tmp_path / "less")
    assert files_below(tmp_path / "less") == files_below(tmp_path / "usual")


def test_of_several_sizes_the_shard_fails_at_each(season: Path, tmp_path: Path) -> None:
    """Nothing is committed at any size of a shard that is above the budget."""
    source = broken_copy(season, tmp_path / "source", 1.0)
    pipeline = replace(sizes_pipeline(str(source)), shards=SHARDS, max_reject_share=1.0)
    with pytest.raises(Incomplete, match="above max_shard_reject_share"):
        convert_sizes(pipeline, SerialRunner(), str(tmp_path / "out"))
    judged = {path.stem for path in (tmp_path / "out").glob("*/index/*")}
    assert not {name for name in judged if name.startswith("train")}


def test_a_number_of_rejects_stops_the_run(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """At the number the run is complete, below it stops with the setting's name."""
    with pytest.raises(
        TooManyFailures, match=r"3 of \d+ planned .* above max_rejects; for example"
    ):
        convert(replace(pipeline, max_rejects=2), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    convert(replace(pipeline, max_rejects=3), tmp_path / "out")
    convert(pipeline, tmp_path / "usual")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "usual")


def test_impossible_budgets_are_refused(pipeline: SeasonPipeline) -> None:
    """Shares lie between 0 and 1, and a number is not negative."""
    for changes, message in (
        ({"max_rejects": -1}, "max_rejects is -1"),
        ({"max_shard_reject_share": 1.5}, "max_shard_reject_share is 1.5"),
        ({"max_reject_share": -0.1}, "max_reject_share is -0.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(pipeline, **changes)


@pytest.fixture
def server(season: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """A bucket with the drawn season; stalls are noticed after a second, tries follow at once."""
    monkeypatch.setitem(client._TIMES, "read_timeout", "1s")
    monkeypatch.setattr(retry, "_LONGEST_WAIT_SECONDS", 0.01)
    close_buckets()
    content = files_below(season)
    with fault_server({f"season/{name}": data for name, data in content.items()}) as running:
        yield running
    close_buckets()


def bucket_pipeline(server: FaultServer) -> SeasonPipeline:
    options = {"endpoint_url": server.url, "key": "k", "secret": "s"}
    pipeline = season_pipeline(f"s3://{BUCKET}/season")
    return replace(pipeline, storage_options=options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_faults_that_pass_leave_no_trace(
    server: FaultServer, pipeline: SeasonPipeline, tmp_path: Path, seed: int
) -> None:
    """Slow-downs, resets, cuts and stalls at random, each within the tries: equal bytes."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    names = list(server.objects)
    for name in draw.sample(names, len(names) * 2 // 3):
        for _ in range(draw.randint(1, retry.NUM_ATTEMPTS - 1)):
            server.fail(name, draw.choice(PASSING), times=1)
    convert(bucket_pipeline(server), tmp_path / "out")
    convert(pipeline, tmp_path / "undisturbed")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "undisturbed")


@pytest.mark.parametrize("seed", range(2))
def test_faults_that_stay_fail_shards_and_no_photograph(
    server: FaultServer, pipeline: SeasonPipeline, tmp_path: Path, seed: int
) -> None:
    """Beyond all tries the shard fails, however few photographs; later the bytes are equal."""
    draw = random.Random(seed)  # noqa: S311 - a repeatable choice, not a secret
    names = draw.sample([name for name in server.objects if "/images/" in name], 4)
    for name in names:
        server.fail(name, draw.choice([fault for fault in PASSING if fault != Stall(after=50)]))
    with pytest.raises(Incomplete, match="shards failed"):
        convert(bucket_pipeline(server), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    for name in names:
        server.heal(name)
    convert(bucket_pipeline(server), tmp_path / "out")
    convert(pipeline, tmp_path / "undisturbed")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "undisturbed")
