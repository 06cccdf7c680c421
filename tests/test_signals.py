"""Ctrl-C and SIGTERM: the shard in hand is abandoned, and the message continues the work."""

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl.cli.stopping import STOP_SECONDS
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ShardSettings
from serengeti_etl.convert.fetch import MAX_IN_FLIGHT
from serengeti_etl.convert.season import convert_season
from tests.conftest import files_below, season_pipeline
from tests.fault_server import BUCKET, FaultServer, Stall, fault_server

ROOT = Path(__file__).parents[1]
SHARDS = ShardSettings(max_samples=64)  # so that more photographs are wanted than are under way
NUM_HANGING = MAX_IN_FLIGHT - 2
"""Of the first photographs of a shard one may be missing, and one empty."""

ASKED_SECONDS = 5 * STOP_SECONDS
"""Generous: machines are busy. A client gives a dead store up after a minute at the earliest."""

PIPELINE = """
from dataclasses import replace
from tests.conftest import season_pipeline
from tests.test_signals import SHARDS
pipeline = replace(
    season_pipeline("s3://{bucket}/season"),
    shards=SHARDS,
    storage_options={{"endpoint_url": {url!r}, "key": "k", "secret": "s"}},
)
"""


@pytest.fixture
def server(season: Path) -> Iterator[FaultServer]:
    """A bucket with the drawn season, none of whose photographs ever arrives."""
    content = files_below(season)
    with fault_server({f"season/{name}": data for name, data in content.items()}) as running:
        for name in photographs(running):
            running.fail(name, Stall(after=10))
        yield running


@pytest.fixture
def pipeline_file(server: FaultServer, tmp_path: Path) -> Path:
    """A pipeline file, with a space in its name, over that bucket."""
    path = tmp_path / "my season.py"
    path.write_text(PIPELINE.format(bucket=BUCKET, url=server.url))
    return path


@pytest.fixture(scope="module")
def expected(season: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The dataset as it comes undisturbed from a folder."""
    output = tmp_path_factory.mktemp("undisturbed")
    pipeline = replace(season_pipeline(str(season)), shards=SHARDS)
    convert_season(pipeline, SerialRunner(), str(output))
    return files_below(output)


def photographs(server: FaultServer) -> list[str]:
    return [name for name in server.objects if name.startswith("season/images/")]


def start(pipeline: Path, output: str, cluster: str = "serial") -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "serengeti_etl", "convert", str(pipeline)]
    command += ["--output", output, "--cluster", cluster]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def wait_for(server: FaultServer, num_in_flight: int) -> None:
    end = time.monotonic() + 120
    while server.max_in_flight < num_in_flight:
        assert time.monotonic() < end, "the requests never came"
        time.sleep(0.05)


def stop(process: "subprocess.Popen[str]", signals: list[signal.Signals]) -> str:
    """What a process says when it gets these signals; it ends in time, and by itself."""
    for number in signals:
        process.send_signal(number)
    try:
        said = process.communicate(timeout=ASKED_SECONDS)[1]
    finally:
        process.kill()
    assert "Traceback" not in said
    assert process.returncode == 3, said
    return said


def continuing_command(said: str) -> list[str]:
    line = next(line for line in said.splitlines() if "to continue, run: " in line)
    return shlex.split(line.partition("to continue, run: ")[2])


def continue_by(said: str) -> int:
    """The exit code of the command that a message names."""
    return subprocess.run(continuing_command(said), cwd=ROOT, check=False).returncode


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT], [signal.SIGINT, signal.SIGTERM]],
    ids=["TERM", "INT", "both"],
)
def test_while_every_fetch_hangs(
    server: FaultServer,
    pipeline_file: Path,
    tmp_path: Path,
    expected: dict[str, bytes],
    signals: list[signal.Signals],
) -> None:
    """It ends in seconds with exit 3; the command that it names ends with the undisturbed bytes."""
    output = tmp_path / "out"
    process = start(pipeline_file, str(output))
    wait_for(server, NUM_HANGING)
    holder = json.loads((output / "lease.json").read_text())
    assert holder["pid"] == process.pid
    said = stop(process, signals)
    if len(signals) == 1:
        assert not (output / "lease.json").exists()
        assert not list(output.rglob(".*.partial"))
    assert not (output / "dataset.json").exists()
    for name in photographs(server):
        server.heal(name)
    assert continue_by(said) == 2
    assert files_below(output) == expected


@pytest.mark.slow
def test_on_a_cluster_while_every_fetch_hangs(
    server: FaultServer, pipeline_file: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Workers that hang do not hold it up either."""
    output = tmp_path / "out"
    process = start(pipeline_file, str(output), "local")
    wait_for(server, NUM_HANGING)
    said = stop(process, [signal.SIGTERM])
    assert not (output / "lease.json").exists()
    for name in photographs(server):
        server.heal(name)
    assert continue_by(said) == 2
    assert files_below(output) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stop_seconds", "signals"),
    [(STOP_SECONDS, [signal.SIGTERM]), (1000.0, [signal.SIGINT, signal.SIGTERM])],
    ids=["once", "twice"],
)
def test_while_the_main_thread_asks_a_dead_store(
    server: FaultServer,
    pipeline_file: Path,
    tmp_path: Path,
    stop_seconds: float,
    signals: list[signal.Signals],
) -> None:
    """Python hears of no signal there: time ends it, or the second; it names the command."""
    with pipeline_file.open("a") as file:
        file.write(
            f"from serengeti_etl.cli import stopping\nstopping.STOP_SECONDS = {stop_seconds}\n"
        )
    server.objects["season/labels.json"] += b" " * 10
    server.fail("season/labels.json", Stall(after=10))
    process = start(pipeline_file, str(tmp_path / "out"))
    end = time.monotonic() + 120
    while not server.num_requests("season/labels.json"):
        assert time.monotonic() < end, "the label file was never asked for"
        time.sleep(0.05)
    said = stop(process, signals)
    assert str(pipeline_file) in continuing_command(said)


def test_an_outage_ends_without_waiting_for_its_threads(tmp_path: Path, season: Path) -> None:
    """A shard that failed is told, with exit 3, while other requests of it still hang."""
    content = files_below(season)
    objects = {f"season/{name}": data for name, data in content.items()}
    with fault_server(objects) as server:
        for name in photographs(server):
            server.fail(name, Stall(after=10))
        path = tmp_path / "p.py"
        path.write_text(
            PIPELINE.format(bucket=BUCKET, url=server.url)
            + "from serengeti_etl.convert import fetch\nfetch.DEADLINE_SECONDS = 1.0\n"
        )
        process = start(path, str(tmp_path / "out"))
        try:
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == 3, said
    assert "did not answer for" in said


def test_a_refusal_does_not_wait_for_threads(tmp_path: Path) -> None:
    """When a command has failed, threads that hang do not keep the process, as Python would."""
    path = tmp_path / "hangs.py"
    path.write_text("import threading\nthreading.Thread(target=threading.Event().wait).start()\n")
    command = [sys.executable, "-m", "serengeti_etl", "plan", str(path)]
    ended = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 4
    assert "must define `pipeline = SeasonPipeline(...)`" in ended.stderr


def test_a_command_that_is_done_soon_keeps_python_s_own_ways(pipeline_file: Path) -> None:
    """``plan`` ends at SIGTERM as any process does."""
    command = [sys.executable, "-m", "serengeti_etl", "plan", str(pipeline_file)]
    # The pipeline file runs in the process: it sends the signal itself.
    with pipeline_file.open("a") as file:
        file.write("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    ended = subprocess.run(command, check=False, cwd=ROOT)
    assert ended.returncode == -signal.SIGTERM
