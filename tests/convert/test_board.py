"""What a conversion says of itself, beside a dataset that it does not change."""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cli.boards import conversion_board
from serengeti_etl.cli.conversion import run_conversion
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import OutputHeld, TooManyFailures
from serengeti_etl.lease import hold
from serengeti_etl.runs import board as board_module
from serengeti_etl.runs.status import State, Status
from serengeti_etl.storage import Store
from tests.browser import SIZES, Browser
from tests.chaos.drivers import Driver, Hold, small_shards, write_pipeline
from tests.conftest import files_below

PATIENT = "from serengeti_etl.runs import board\nboard._CLOSE_SECONDS = 60.0\n"
"""The last word is waited for, however slow the machine is: of processes that tests start."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same here."""
    monkeypatch.setattr(board_module, "_CLOSE_SECONDS", 60.0)


def status_of(store: Store) -> Status:
    return Status.from_json(store.read_json("run/status.json"), "status.json")


def rows_of(store: Store, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read(f"run/{name}").decode().splitlines()]


def convert(pipeline: SeasonPipeline, output: str) -> None:
    with conversion_board(output, "drawn", hourly_rate=1.0) as board:
        run_conversion(pipeline, output, "serial", board)


@pytest.fixture(params=["folder", "bucket"])
def output(
    request: pytest.FixtureRequest, tmp_path: Path, make_bucket: Callable[[str], str]
) -> str:
    """Where a dataset goes, in a folder and in a bucket."""
    if request.param == "folder":
        return str(tmp_path / "out")
    return f"{make_bucket('board')}/out"


def test_a_conversion_is_told_beside_its_dataset(pipeline: SeasonPipeline, output: str) -> None:
    """Images of all, rejects, rates and the end; again, that all was there already."""
    store = Store(url=output)
    convert(pipeline, output)
    status = status_of(store)
    assert (status.kind, status.said, status.unit) == ("convert", "done", "images")
    assert status.step == status.num_steps
    assert status.step > 40
    rejected = status.values["rejected"]
    assert rejected > 0
    assert status.values["mb_per_second"] > 0
    assert [one["kind"] for one in rows_of(store, "events.jsonl")] == ["start", "made", "done"]
    first, last = (rows_of(store, "metrics.jsonl")[at] for at in (0, -1))
    assert first["step"] == 0
    assert first["time"] < last["time"]
    assert last.keys() == {"time", "step", "images_per_second", "mb_per_second", "rejected"}
    assert (last["step"], last["rejected"]) == (status.step, rejected)
    convert(pipeline, output)
    again = status_of(store)
    assert (again.step, again.num_steps, again.run_id) == (
        status.step,
        status.num_steps,
        status.run_id,
    )
    assert again.seconds_before == pytest.approx(status.seconds)
    assert rows_of(store, "metrics.jsonl")[-1] == last
    assert len(rows_of(store, "events.jsonl")) == 6


def test_what_is_told_is_no_part_of_the_dataset(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """But for the folder ``run``, the files are those of a conversion without a board."""
    told, silent = tmp_path / "told", tmp_path / "silent"
    convert(pipeline, str(told))
    convert_season(pipeline, SerialRunner(), str(silent))
    assert files_below(told) == files_below(silent)
    assert not (silent / "run").exists()
    assert "run/" not in (told / "SHA256SUMS").read_text()
    assert not verify_dataset(str(told), SerialRunner()).problems


def test_several_sizes_have_one_board(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """It lies above the folders of the sizes, and counts each photograph once."""
    several = dataclasses.replace(pipeline, sizes=("96", "64"), resize=ResizeSettings())
    convert(several, str(tmp_path))
    status = status_of(Store(url=str(tmp_path)))
    assert (status.said, status.step) == ("done", status.num_steps)
    events = rows_of(Store(url=str(tmp_path)), "events.jsonl")
    made = [one["text"] for one in events if one["kind"] == "made"]
    assert [text.partition(":")[0] for text in made] == [f"{tmp_path}/96", f"{tmp_path}/64"]
    assert not (tmp_path / "96" / "run").exists()


def test_a_refused_conversion_does_not_speak_for_the_other(
    pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Where another process writes, nothing is written under its name."""
    store = Store(url=str(tmp_path))
    with hold(store), pytest.raises(OutputHeld):
        convert(pipeline, str(tmp_path))
    assert not (tmp_path / "run").exists()


def test_too_many_failures_are_told(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """The state is FAILED, with examples in the reason."""
    strict = dataclasses.replace(pipeline, max_rejects=0)
    with pytest.raises(TooManyFailures):
        convert(strict, str(tmp_path))
    status = status_of(Store(url=str(tmp_path)))
    assert status.state(time.time()) is State.FAILED
    assert "above max_rejects" in status.reason


def test_a_killed_conversion_is_lost(season: Path, tmp_path: Path) -> None:
    """SIGKILL leaves a status that says LOST soon; the next one goes on and ends it."""
    output = tmp_path / "out"
    file = write_pipeline(tmp_path, season)
    with file.open("a") as lines:
        lines.write(PATIENT)
    hold = Hold(file)
    hold.allow(1)
    driver = Driver(file, output, "serial")
    driver.wait_for_commits(1, lambda: None)
    while not (output / "run" / "status.json").exists():
        assert driver.process.poll() is None
        time.sleep(0.01)
    driver.process.kill()
    driver.process.wait()
    hold.allow()
    status = status_of(Store(url=str(output)))
    assert status.said == "running"
    assert status.state(status.heartbeat_at + 31) is State.LOST
    assert Driver(file, output, "serial").wait() == 2
    after = status_of(Store(url=str(output)))
    rows = rows_of(Store(url=str(output)), "metrics.jsonl")
    starts = [at for at, row in enumerate(rows) if row["step"] == 0]
    known = rows[starts[-1] + 1]
    assert known["time"] == rows[starts[-1]]["time"] or known["step"] == rows[-1]["step"]
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert (after.said, after.run_id) == ("done", status.run_id)
    convert_season(small_shards(str(season)), SerialRunner(), str(tmp_path / "whole"))
    assert files_below(output) == files_below(tmp_path / "whole")


@pytest.mark.parametrize("size", SIZES)
def test_its_page_is_shown(
    browser: Browser, pipeline: SeasonPipeline, tmp_path: Path, size: tuple[int, int]
) -> None:
    """Without error or request, with images, speed, rejects and what it cost."""
    script = (
        f"import sys\n{PATIENT}"
        "from tests.conftest import season_pipeline\n"
        "from tests.convert.test_board import convert\n"
        "convert(season_pipeline(sys.argv[1]), sys.argv[2])\n"
    )
    # Playwright keeps asyncio's loop in this thread.
    command = [sys.executable, "-c", script, pipeline.source, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2], capture_output=True)
    with browser.show((tmp_path / "run" / "index.html").as_uri(), size) as shown:
        shown.check()
        assert shown.page.inner_text("#state") == "DONE"
        text = shown.text()
        for words in ("drawn", "conversion", "100 %", "MB/s", "Rejected", "Cost", "shards"):
            assert words in text
