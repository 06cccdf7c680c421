"""Deaths of real trainings, as a watcher elsewhere sees and tells them."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serengeti_etl.run_tables import runs_text
from serengeti_etl.runs import status, watch
from serengeti_etl.runs.alerts import Alerts, AlertSettings
from serengeti_etl.runs.channels import open_channel
from serengeti_etl.runs.look import Look, look_at, read_status
from serengeti_etl.runs.watch import Watch, WatchSettings
from serengeti_etl.storage import Store
from tests.dataset_factory import make_dataset
from tests.runs.alert_server import AlertServer
from tests.runs.status_factory import STATUS, say
from tests.train.test_stop import command_of

ROOT = Path(__file__).parents[2]

EVERY, LOST, STALL = 0.3, 8.0, 8.0
"""On a machine that is busy a run that is well may write nothing for seconds."""

SLACK = 5.0
"""For machines that are busy, beyond the promised time of two looks."""

FAST = f"""
from serengeti_etl.runs import notes, status
notes._HEARTBEAT_SECONDS = {{"folder": 0.3, "bucket": 0.3}}
status.LEAST_LOST_SECONDS = {LOST}
"""
HANGS = """
inner = loop._Trainer._step
def hang(self, stage, parts):
    inner(self, stage, parts)
    if self._place.step == 3:
        print("hangs", flush=True)
        time.sleep(1000)
patch.setattr(loop._Trainer, "_step", hang)
"""
FAILS = """
inner = loop._Trainer._step
def fail(self, stage, parts):
    inner(self, stage, parts)
    if self._place.step == 5:
        self._loss_sum = self._loss_sum * float("nan")
patch.setattr(loop._Trainer, "_step", fail)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


@contextmanager
def training(
    dataset: str, folder: Path, run: str, *, more: str = ""
) -> "Iterator[subprocess.Popen[str]]":
    """A real training that beats fast, up to its second step and to the end of the block.

    Its third step ends with ``let_go``.
    """
    command = command_of(dataset, folder, pause=0, holds_at=3)
    with (folder / "my recipes" / "tiny.py").open("a") as recipe:
        recipe.write(FAST + more)
    command[command.index("--run") + 1] = run
    command += ["--stall-after", str(STALL)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            while "step 2" not in (line := process.stdout.readline()):
                assert line, "the training ended"
            yield process
        finally:
            process.kill()


def let_go(folder: Path) -> None:
    """The training of that folder goes on from its third step."""
    (folder / "my recipes" / "go on").touch()


def step_until(watching: Watch, is_so: Callable[[], bool], seconds: float = 60) -> float:
    """The longest time between two steps: for that long nobody watched."""
    end = time.monotonic() + seconds
    longest, at = 0.0, time.monotonic()
    while not is_so():
        assert time.monotonic() < end, [(run.title, run.sight, run.fault) for run in watching.runs]
        watching.step()
        time.sleep(0.05)
        longest, at = max(longest, time.monotonic() - at), time.monotonic()
    return longest


def read_to_death(process: "subprocess.Popen[str]") -> None:
    """To where the hung one hangs, else to the end of the output."""
    assert process.stdout is not None
    while (line := process.stdout.readline()) and "hang" not in line:
        pass


def state_of(watching: Watch) -> str:
    return watching.runs[0].sight.state or "" if watching.runs else ""


DEATHS = {
    "killed": (signal.SIGKILL, "", "lost", LOST),
    "held": (signal.SIGSTOP, "", "lost", LOST),
    "hung step": (None, HANGS, "stalled", STALL),
    "not finite": (None, FAILS, "failed", 0.0),
    "SIGTERM": (signal.SIGTERM, "", "stopped", 0.0),
    "finished": (None, "", "done", 0.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "bucket"])
@pytest.mark.parametrize("death", DEATHS)
def test_each_death_is_told_in_time(  # noqa: PLR0913, PLR0917 - fixtures
    dataset: str,
    tmp_path: Path,
    make_bucket: Callable[[str], str],
    server: AlertServer,
    monkeypatch: pytest.MonkeyPatch,
    death: str,
    where: str,
) -> None:
    """A real training dies; within its own time and two looks an alert arrives at a real server."""
    monkeypatch.setattr(status, "LEAST_LOST_SECONDS", LOST)
    run = str(tmp_path / "run") if where == "folder" else f"{make_bucket('deaths')}/runs/lions"
    number, more, kind, promised = DEATHS[death]
    channel = open_channel(server.url("webhook"))
    settings = WatchSettings(every_seconds=EVERY, find_seconds=1.0)
    with (
        training(dataset, tmp_path, run, more=more) as process,
        Alerts([channel], AlertSettings(quiet_seconds=0)) as alerts,
    ):
        watching = Watch([run], settings, alerts.send)
        step_until(watching, lambda: state_of(watching) != "")
        died = time.time()
        if number is not None:
            process.send_signal(number)
        else:
            let_go(tmp_path)
            read_to_death(process)
        held_up = step_until(watching, lambda: state_of(watching) == kind.upper())
        posted = server.wait_for_kind(kind)
        seconds = posted.at - died
        if number in (signal.SIGKILL, signal.SIGSTOP):
            assert seconds <= promised + 2 * EVERY + SLACK + held_up
        for _ in range(5):
            watching.step()
    kinds = [one.json()["kind"] for one in server.posted]
    assert kinds.count(kind) == 1
    assert ("lost" in kinds) is (kind == "lost")


def test_a_run_that_goes_on_has_recovered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost and back again, each told once; a best score in between is told too."""
    monkeypatch.setattr(status, "LEAST_LOST_SECONDS", 0.5)
    now = time.time()
    running = replace(STATUS, heartbeat_seconds=0.1, heartbeat_at=now, progress_at=now)
    say(tmp_path, running)
    told: list[str] = []
    settings = WatchSettings(every_seconds=0.1, find_seconds=0.1)
    watching = Watch([str(tmp_path)], settings, lambda alert: told.append(alert.kind))
    step_until(watching, lambda: state_of(watching) == "RUNNING")
    step_until(watching, lambda: state_of(watching) == "LOST")
    say(
        tmp_path,
        replace(running, heartbeat_at=now + 9, progress_at=now + 9, values={"best_score": 0.2}),
    )
    step_until(watching, lambda: "best" in told)
    assert told == ["lost", "recovered", "best"]


def test_a_place_that_is_away_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watcher says once that it cannot see, and once that it can again; no run is lost."""
    now = time.time()
    running = replace(STATUS, heartbeat_at=now, progress_at=now, heartbeat_seconds=1000.0)
    say(tmp_path / "a", running)
    say(tmp_path / "b", replace(STATUS, said="done"))
    is_away = False

    def away(store: object, **_: object) -> Look:
        return Look(fault="no route") if is_away else look_at(store)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "look_at", away)
    told: list[tuple[str, str]] = []
    settings = WatchSettings(every_seconds=0.05, find_seconds=100, blind_seconds=1.5)
    url = str(tmp_path)
    watching = Watch([url], settings, lambda alert: told.append((alert.kind, alert.run)))
    step_until(watching, lambda: len(watching.runs) == 2)
    is_away = True
    step_until(watching, lambda: bool(told))
    assert [run.sight.state for run in watching.runs] == [None, None]
    assert "no route" in runs_text(watching.runs)
    for _ in range(20):
        watching.step()
    is_away = False
    step_until(watching, lambda: len(told) == 2)
    assert told == [("unseen", url), ("seen-again", url)]


def test_new_runs_are_found(tmp_path: Path) -> None:
    """A run that begins under a watched place is told of, even if it has ended when first seen."""
    told: list[str] = []
    say(tmp_path / "runs" / "old", replace(STATUS, said="done"))
    settings = WatchSettings(find_seconds=0.05)
    watching = Watch([str(tmp_path / "runs")], settings, lambda alert: told.append(alert.kind))
    step_until(watching, lambda: len(watching.runs) == 1)
    say(tmp_path / "runs" / "one", replace(STATUS, said="done"))
    step_until(watching, lambda: len(watching.runs) == 2)
    step_until(watching, lambda: bool(told))
    assert told == ["done"]


def test_a_run_below_two_places_is_watched_once(tmp_path: Path) -> None:
    """A dataset and the folder it lies in, or the run itself, have one card and one alert."""
    told: list[str] = []
    run = tmp_path / "all" / "dataset" / "run"
    say(run, replace(STATUS, said="failed"))
    urls = [str(tmp_path / "all"), str(tmp_path / "all" / "dataset"), f"{run}/"]
    watching = Watch(urls, WatchSettings(every_seconds=0.05), lambda alert: told.append(alert.kind))
    step_until(watching, lambda: watching.is_settled and bool(told))
    step_until(watching, lambda: len(watching.runs) > 0)
    assert [found.store.url.rstrip("/") for found in watching.runs] == [str(run)]
    assert told == ["failed"]


def look_once(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serengeti_etl", "watch", "--once", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_once_prints_a_table(tmp_path: Path, server: AlertServer) -> None:
    """Exit 0 when all is well, 3 with an alert when a run is in trouble, or there is none."""
    now = time.time()
    # However long it takes until it is looked at, it is not lost.
    fresh = replace(STATUS, heartbeat_at=now, progress_at=now, heartbeat_seconds=1000.0)
    fresh = replace(fresh, eta_seconds=7200.0)
    say(tmp_path / "well", replace(fresh, values={"loss": 0.5, "score": 0.25}, hourly_rate=36.0))
    say(tmp_path / "evil", replace(fresh, name="[red]\x1b[31m<b>", said="done"))
    alert = ("--alert", server.url("webhook"))
    watching = Watch([str(tmp_path)])
    step_until(watching, lambda: watching.is_settled)
    assert "\x1b" not in runs_text(watching.runs)
    well = look_once(str(tmp_path), *alert)
    assert well.returncode == 0, well.stderr
    row = next(line for line in well.stdout.splitlines() if "lions" in line)
    for word in ("RUNNING", "70 of 1,000 steps", "2 h 00 min", "0.2500", "0.5000"):
        assert word in row
    assert "[red]" in well.stdout
    assert server.posted == []
    say(tmp_path / "dead", replace(STATUS, name="dead one", heartbeat_at=now - 9999))
    dead = look_once(str(tmp_path), *alert)
    assert dead.returncode == 3
    assert "LOST" in dead.stdout
    assert [one.json()["title"] for one in server.wait_for(1)] == ["dead one: LOST"]
    none = look_once(str(tmp_path / "none"))
    assert (none.returncode, none.stdout) == (3, "no run has said anything there yet\n")


def test_once_looks_again_where_clocks_may_differ(tmp_path: Path) -> None:
    """A heartbeat of minutes ago that still changes is no loss."""
    early = replace(STATUS, heartbeat_at=time.time() - 300, progress_at=time.time() - 300)
    say(tmp_path, early)
    command = [sys.executable, "-m", "serengeti_etl", "watch", "--once", "--every", "0.2"]
    with subprocess.Popen(
        [*command, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            beat = early.heartbeat_at + 1
            early = replace(early, heartbeat_at=beat, progress_at=beat)
            say(tmp_path, early)
            time.sleep(0.1)
        said = process.communicate()[0]
    assert (process.returncode, "RUNNING" in said) == (0, True)


@pytest.mark.slow
def test_the_dead_man_alone(dataset: str, tmp_path: Path, server: AlertServer) -> None:
    """``watch --no-serve`` with its own settings: a killed training is told in its time."""
    run = str(tmp_path / "run")
    command = [sys.executable, "-m", "serengeti_etl", "watch", "--no-serve", "--every", "1"]
    command += ["--alert", server.url("webhook"), run]
    with (
        training(dataset, tmp_path, run) as process,
        subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as watcher,
    ):
        # It is held at a step for longer than a stall takes: so it is seen before it dies.
        server.wait_for_kind("stalled")
        died = time.time()
        process.kill()
        process.wait()
        last = read_status(Store(url=run))
        posted = server.wait_for_kind("lost", seconds=120)
        watcher.terminate()
        said = watcher.communicate(timeout=30)[1]
    assert posted.at - died <= status.LEAST_LOST_SECONDS + 12
    assert last is not None
    assert posted.at - last.heartbeat_at >= status.LEAST_LOST_SECONDS
    assert "Traceback" not in said
