"""Runs are found where they lie, in folders and in buckets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import SerengetiError
from serengeti_etl.runs import find
from serengeti_etl.runs.find import find_runs
from serengeti_etl.runs.look import Look, look_at
from serengeti_etl.storage import Store
from tests.runs.status_factory import STATUS, say

PLACES = ("status.json", "run/status.json", "a/status.json", "b/run/status.json")
OTHERS = ("c/d/e/status.json", "c/model.pt", "x/run/run/status.json", "run/run/status.json")


def fill(store: Store) -> None:
    for name in (*PLACES, *OTHERS):
        store.write_json(name, STATUS.to_json())


def names_at(url: str) -> list[tuple[str, str]]:
    found = find_runs(url, DaemonPool(4, "find"))
    return [(run.name, run.store.url.removeprefix(url)) for run in found]


EXPECTED = [("", ""), ("a", "/a"), ("b", "/b/run"), ("", "/run")]


def test_runs_of_a_folder(tmp_path: Path) -> None:
    """The place itself, its run, and one level of folders with their runs; nothing deeper."""
    fill(Store(url=str(tmp_path)))
    assert names_at(str(tmp_path)) == EXPECTED
    assert names_at(str(tmp_path / "a")) == [("", "")]
    assert names_at(str(tmp_path / "nothing")) == []


def test_runs_of_a_bucket(make_bucket: Callable[[str], str]) -> None:
    """The same in a bucket, and below a prefix of it."""
    bucket = make_bucket("find")
    fill(Store(url=bucket))
    fill(Store(url=f"{bucket}/below"))
    below = [("below", "/below"), ("below", "/below/run")]
    assert names_at(bucket) == [*EXPECTED[:3], *below, EXPECTED[3]]
    assert names_at(f"{bucket}/below") == EXPECTED


def test_a_damaged_status_is_a_run_too(tmp_path: Path) -> None:
    """It is found with its fault, so that someone looks."""
    for name, text in {"cut": "{", "other": json.dumps({"format": "x/9"})}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(text)
    found = find_runs(str(tmp_path), DaemonPool(4, "find"))
    assert [run.name for run in found] == ["cut", "other"]
    assert "is no JSON" in found[0].look.fault
    assert "no status of format" in found[1].look.fault


def test_a_folder_that_cannot_be_read_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that refuses one folder, or is away for a moment, makes no runs of folders."""
    say(tmp_path / "a", STATUS)
    (tmp_path / "b").mkdir()

    def refuse(store: Store) -> Look:
        return Look(fault="refused") if store.url.endswith(("b", "run")) else look_at(store)

    monkeypatch.setattr(find, "look_at", refuse)
    assert names_at(str(tmp_path)) == [("a", "/a")]


def test_a_place_that_cannot_be_listed_is_told() -> None:
    """A web server, whose files nobody can list, is no place to search."""
    with pytest.raises((SerengetiError, OSError), match="cannot be listed"):
        find_runs("http://127.0.0.1:9/x", DaemonPool(4, "find"))


def test_folders_are_listed_like_files(tmp_path: Path, make_bucket: Callable[[str], str]) -> None:
    """``Store.folders`` names the folders directly below, sorted, as ``list`` does files."""
    for url in (str(tmp_path), make_bucket("folders")):
        store = Store(url=url)
        for name in ("z/1", "a/b/2", "a/3", "4"):
            store.write(name, b"x")
        assert store.folders("") == ("a", "z")
        assert store.folders("a") == ("a/b",)
        assert store.folders("none") == ()
