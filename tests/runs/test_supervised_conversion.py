"""A supervised conversion: killed, hung, and done with rejects, for real."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from serengeti_etl.runs.alert import Alert
from serengeti_etl.runs.supervise import Ending
from serengeti_etl.runs.supervise_settings import SuperviseSettings
from tests.chaos.drivers import ROOT, small_shards, write_pipeline
from tests.conftest import files_below
from tests.runs.alert_server import AlertServer
from tests.runs.test_supervised import Here, own_below, wait_until
from tests.seeds import SEED

pytestmark = pytest.mark.slow


SLOW = """
import time
from serengeti_etl.convert import season
make_shard = season.make_shard
def slow(task):
    time.sleep(0.2)
    return make_shard(task)
season.make_shard = slow
"""
"""Of shards that are made in the driver: there is time to kill it."""

STAYS = """
def stays(*_):
    time.sleep(1000)
season.compact_index = stays
"""
"""With all shards made it waits for its death: whoever is to be killed is there, however late."""


def convert(pipeline: Path, output: Path, cluster: str) -> list[str]:
    """The command line of a conversion."""
    program = [sys.executable, "-m", "serengeti_etl", "convert", str(pipeline)]
    return [*program, "--output", str(output), "--cluster", cluster]


def undisturbed(season: Path, output: Path) -> dict[str, bytes]:
    """The files of a conversion that nobody disturbed."""
    convert_season(small_shards(str(season)), SerialRunner(), str(output))
    return files_below(output)


def outside(command: list[str], *options: str) -> list[str]:
    """The command below ``supervise``."""
    return [*command[:3], "supervise", *options, "--", *command]


def inside(command: list[str], *options: str) -> list[str]:
    """The command that supervises itself."""
    return [*command, "--supervise", *options]


@pytest.mark.parametrize("supervised", [outside, inside])
@pytest.mark.parametrize("cluster", ["serial", "local"], ids=lambda name: f"{name}-seed{SEED}")
def test_kills_do_not_show(
    season: Path,
    tmp_path: Path,
    server: AlertServer,
    cluster: str,
    supervised: Callable[..., list[str]],
) -> None:
    """Killed twice, it is done with the bytes of an undisturbed one; each death is told; exit 2."""
    expected, output = undisturbed(season, tmp_path / "calm"), tmp_path / "rough"
    num_shards = sum(name.endswith(".tar") for name in expected)
    pipeline = write_pipeline(tmp_path, season)
    ends = pipeline.read_text() + SLOW
    pipeline.write_text(ends + STAYS)
    draw = random.Random(f"{SEED} {cluster}")  # noqa: S311 - repeatable moments, no secret
    moments = sorted(draw.sample(range(1, num_shards - 4), 2))
    options = ("--alert", server.url("webhook"), "--alert-quiet", "0")
    with subprocess.Popen(
        supervised(convert(pipeline, output, cluster), *options),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for number, moment in enumerate(moments, 1):
            wait_until(lambda: len(list(output.glob("index/*-*.parquet"))) >= moment)  # noqa: B023
            converting = own_below(process.pid, "convert")
            if number == len(moments):
                pipeline.write_text(ends)
            converting.kill()
            server.wait_for(number)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 2, said
    assert files_below(output) == expected
    told = [posted.json() for posted in server.wait_for(3)]
    assert [one["kind"] for one in told] == ["died", "died", "finished"], said
    assert all("it died of signal 9; restart " in one["text"] for one in told[:2])
    assert "dataset: " in told[2]["tail"]


def test_sigterm_ends_it_to_be_continued(season: Path, tmp_path: Path) -> None:
    """Asked to stop it ends with 3, the conversion too, and the same command finishes the work."""
    expected, output = undisturbed(season, tmp_path / "calm"), tmp_path / "rough"
    pipeline = write_pipeline(tmp_path, season)
    ends = pipeline.read_text()
    pipeline.write_text(ends + SLOW + STAYS)
    command = inside(convert(pipeline, output, "serial"))
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: any(output.glob("index/*-*.parquet")))
        converting = own_below(process.pid, "convert")
        process.terminate()
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert not converting.is_running()
    assert "serengeti-etl: interrupted; to continue" in said
    assert "drawn: stopped: it was asked to stop" in said
    assert not (output / "dataset.json").exists()
    pipeline.write_text(ends)
    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode == 2
    assert files_below(output) == expected


@pytest.mark.parametrize("cluster", ["serial", "local"])
def test_a_conversion_that_hangs_is_begun_again(season: Path, tmp_path: Path, cluster: str) -> None:
    """A photograph that never comes: stacks are told, and the next start ends as undisturbed."""
    source, output = tmp_path / "season", tmp_path / "rough"
    shutil.copytree(season, source)
    expected = undisturbed(source, tmp_path / "calm")
    photograph = sorted(source.glob("images/**/*.JPG"))[len(expected) // 2]
    content = photograph.read_bytes()
    photograph.unlink()
    os.mkfifo(photograph)
    told: list[Alert] = []

    def mend(alert: Alert) -> None:
        told.append(alert)
        if alert.kind == "died":
            photograph.unlink()
            photograph.write_bytes(content)

    here = Here(output / "run", mend)
    command = [*convert(write_pipeline(tmp_path, source), output, cluster), "--stall-after", "12"]
    outcome = here.supervise(command, SuperviseSettings(grace_seconds=3))
    said = here.err.getvalue().decode()
    assert (outcome.ending, outcome.code) == (Ending.DONE, 2), said
    assert [alert.kind for alert in told] == ["died", "finished"], said
    assert "it had not come on for" in told[0].text
    assert "fetch.py" in said
    assert files_below(output) == expected
