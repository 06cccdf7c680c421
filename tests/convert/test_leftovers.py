"""What uncommitted tries leave is cleared away; what is not this plan's stays."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert import shard as shard_module
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import open_dataset, write_table
from serengeti_etl.errors import Incomplete
from tests.conftest import files_below

STRANGERS = (
    "notes.txt",
    "train/holiday.tar",
    "train/train-999999.tar",
    "val/train-000000.tar",
    "index/old.parquet",
    "index/train-999999.parquet",
    "rejects/mine.parquet",
    "rejects/train-999999.parquet",
    "plan/why.md",
    "other/train-000000.tar",
)
"""Files of somebody else, some of which look much like ours."""


def convert(pipeline: SeasonPipeline, output: Path) -> None:
    convert_season(pipeline, SerialRunner(), str(output))


@pytest.fixture(scope="module")
def converted(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn season, converted undisturbed. Read only."""
    output = tmp_path_factory.mktemp("converted")
    convert(pipeline, output)
    return output


def put_strangers(output: Path) -> dict[str, bytes]:
    """The files of somebody else by name, after putting them there."""
    content = {name: f"{name} is mine".encode() for name in STRANGERS}
    for name, data in content.items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(data)
    return content


def without_rejects(output: Path) -> list[str]:
    shards = open_dataset(str(output)).info.shards
    return [shard.name for shard in shards if not shard.num_rejected]


def test_rejects_that_no_commit_names_are_gone_and_strangers_stay(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A shard without rejects has no file of them in the end; all that is not ours is as it was."""
    output = tmp_path / "out"
    shutil.copytree(converted, output)
    strangers = put_strangers(output)
    for name in without_rejects(output):
        (output / "rejects" / f"{name}.parquet").write_bytes(b"of a try that was killed")
    convert(pipeline, output)
    assert files_below(output) == files_below(converted) | strangers


def test_what_failed_shards_leave_is_gone_at_once(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of tasks that fail before their commit nothing stays; committed shards and strangers do."""
    output = tmp_path / "out"
    strangers = put_strangers(output)
    failing = {"train-000001", "val-000000"}
    real: Callable[..., Any] = write_table

    def failing_write(store: Any, name: str, *args: Any, **kwargs: Any) -> None:
        if name.startswith("index/") and Path(name).stem in failing:
            (output / "rejects" / Path(name).name).write_bytes(b"of the same try")
            raise ConnectionError("the store is away")
        real(store, name, *args, **kwargs)

    monkeypatch.setattr(shard_module, "write_table", failing_write)
    with pytest.raises(Incomplete, match="2 shards failed"):
        convert(pipeline, output)
    left = files_below(output)
    assert {name: left[name] for name in strangers} == strangers
    expected = files_below(converted)
    for name in expected:
        is_failed = Path(name).stem in failing
        is_last = name in ("dataset.json", "index.parquet", "SHA256SUMS")
        assert (name in left) == (not is_failed and not is_last), name
    assert set(left) <= set(expected) | set(strangers)
    monkeypatch.undo()
    convert(pipeline, output)
    assert files_below(output) == expected | strangers


def test_a_store_that_is_away_does_not_hide_why_shards_failed(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be cleared away, the message is that of the shards."""

    def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("the store is away")

    monkeypatch.setattr(shard_module, "write_table", away)
    monkeypatch.setattr("serengeti_etl.convert.season.remove_leftovers", away)
    with pytest.raises(Incomplete, match=r"shards failed, such as .*the store is away"):
        convert(pipeline, tmp_path / "out")
