"""Trials of ``deaths.py``: a training, the death that is meant for it, and what was told of it."""

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.alert_inbox import Arrived, Inbox
from benchmarks.death_recipe import STEP_SECONDS, Way
from serengeti_etl.cli.stopping import SAVE_SECONDS
from serengeti_etl.cli.watching import watch
from serengeti_etl.runs import board
from serengeti_etl.runs.look import read_status
from serengeti_etl.runs.status import State, Status
from serengeti_etl.storage import Store
from serengeti_etl.train.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "serengeti_etl")
RECIPE = """
from benchmarks.death_recipe import mortal_recipe
recipe = mortal_recipe({way!r}, "{folder}")
"""
STALL_SECONDS = 30.0
"""Of the hung step; minutes by default."""
EVERY_SECONDS = float(watch.make_context("watch", ["URL"]).params["every"])
LOOK_SECONDS = EVERY_SECONDS + 1.0
"""Between two looks: the watcher asks twice a second what is due, and what has come."""
ENDING_SECONDS = SAVE_SECONDS + board._CLOSE_SECONDS  # noqa: SLF001 - what is promised hangs on it
START_SECONDS = 300.0
"""Longest wait for a process to be at work."""


def start(command: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    """A process of this repository's own command line, whose words go to a file."""
    with output.open("wb") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file)  # noqa: S603


def tail(file: Path) -> str:
    """The last of what a process said."""
    return file.read_text(errors="replace")[-2000:]


def wait_until(is_so: Callable[[], bool], what: str, output: Path) -> None:
    """Wait until a process is at work.

    Args:
        is_so: whether it is.
        what: it is, for the message.
        output: of the process.

    Raises:
        RuntimeError: it took longer than ``START_SECONDS``.
    """
    end = time.monotonic() + START_SECONDS
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError(f"not in {START_SECONDS:.0f} s: {what}: {tail(output)}")
        time.sleep(0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """A way to die.

    Attributes:
        name: for people.
        kind: of the alert that is due; "" for none.
        level: of that alert.
        way: what the training does to itself.
        number: of the signal that it is sent; None for none.
    """

    name: str
    kind: str
    level: str
    way: Way = "live"
    number: signal.Signals | None = None

    def promised_seconds(self, status: Status) -> float:
        """Longest from this death to its alert, by the settings that the run tells."""
        if self.kind == "lost":
            return status.lost_after_seconds + status.heartbeat_seconds + LOOK_SECONDS
        if self.kind == "stalled":
            return status.stall_after_seconds + status.heartbeat_seconds + LOOK_SECONDS
        noticed = TrainSettings().log_every * STEP_SECONDS if self.way == "nan" else 0.0
        return noticed + ENDING_SECONDS + LOOK_SECONDS


DEATHS = (
    Death(name="SIGKILL", kind="lost", level="critical", number=signal.SIGKILL),
    Death(name="SIGSTOP", kind="lost", level="critical", number=signal.SIGSTOP),
    Death(name="hung step", kind="stalled", level="critical", way="hang"),
    Death(name="NaN loss", kind="failed", level="critical", way="nan"),
    Death(name="SIGTERM", kind="stopped", level="warning", number=signal.SIGTERM),
    Death(name="finished", kind="done", level="info", way="finish"),
    Death(name="none: it goes on", kind="", level=""),
)


@dataclass(kw_only=True, slots=True)
class Trial:
    """One training and its death.

    Attributes:
        death: that is meant for it.
        where: the run lies.
        store: the run's prefix.
        folder: for its recipe, its output and the files of its ``Fate``.
        process: of the training; None before it begins.
        sent_at: when the signal was sent; None without one.
    """

    death: Death
    where: str
    store: Store
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    sent_at: float | None = None

    @property
    def died_at(self) -> float | None:
        """When it died; None while it lives."""
        note = self.folder / "died"
        return float(note.read_text()) if note.exists() else self.sent_at

    @property
    def promised_seconds(self) -> float:
        """Longest from its death to its alert; 0 where nothing is to be told."""
        return self.death.promised_seconds(self.status()) if self.death.kind else 0.0

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.death.name}, {self.where}"

    def status(self) -> Status:
        """What it says of itself now.

        Raises:
            RuntimeError: nothing.
        """
        status = read_status(self.store)
        if status is None:
            raise RuntimeError(f"{self.title} says nothing: {tail(self.folder / 'output')}")
        return status

    def begin(self, dataset: str) -> None:
        """Start it, and wait until it steps and has a status.

        Raises:
            RuntimeError: it does not.
        """
        recipe = self.folder / "recipe.py"
        recipe.write_text(RECIPE.format(way=self.death.way, folder=self.folder))
        command = [*COMMAND, "train", dataset, "--run", self.store.url]
        command += ["--recipe", str(recipe), "--device", "cpu"]
        if self.death.way == "hang":
            command += ["--stall-after", str(STALL_SECONDS)]
        self.process = start(command, self.folder / "output")
        wait_until(self._steps, f"{self.title} steps", self.folder / "output")

    def die(self) -> None:
        """Bring the death about."""
        if self.death.number is None:
            (self.folder / "now").touch()
        elif self.process is not None:
            self.sent_at = time.time()
            self.process.send_signal(self.death.number)

    def end(self) -> None:
        """End the process, however it is."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _steps(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise RuntimeError(f"{self.title} ended: {tail(self.folder / 'output')}")
        return (self.folder / "steps").exists() and read_status(self.store) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What became of a trial.

    Attributes:
        trial: that it is of.
        alert: that told its death; None if none did.
        seconds: from the death to the alert; None without.
        promised: at most; 0 where nothing is to be told.
        state: as the alert called it, or as it is at the end.
        fault: what is wrong; "" if nothing is.
    """

    trial: Trial
    alert: Arrived | None
    seconds: float | None
    promised: float
    state: str
    fault: str

    @classmethod
    def of(cls, trial: Trial, inbox: Inbox) -> "Verdict":
        """Of a trial with what was told of it."""
        death, died_at = trial.death, trial.died_at
        told = [one for one in inbox.of(trial.store.url) if one.kind != "best"]
        alert = next((one for one in told if one.kind == death.kind), None)
        seconds = None if alert is None or died_at is None else alert.at - died_at
        found = cls(
            trial=trial,
            alert=alert,
            seconds=seconds,
            promised=trial.promised_seconds,
            state=alert.title.rpartition(": ")[2] if alert else trial.status().state(time.time()),
            fault="",
        )
        return dataclasses.replace(found, fault=found.fault_of(told))

    def fault_of(self, told: Sequence[Arrived]) -> str:
        """What is wrong with what was told; "" if nothing is."""
        death = self.trial.death
        if [one.kind for one in told] != [death.kind] * bool(death.kind):
            return f"told: {', '.join(one.kind for one in told) or 'nothing'}"
        if not death.kind:
            is_well = self.state == State.RUNNING and self.trial.died_at is None
            return "" if is_well else "not well"
        if self.alert is None or self.alert.level != death.level:
            return f"not {death.level}"
        if self.seconds is None or self.seconds < 0:
            return "early"
        return "late" if self.seconds > self.promised else ""

    def cells(self) -> list[str]:
        """Of the table."""
        alert = f"{self.alert.kind}, {self.alert.level}" if self.alert else "none"
        times = [f"{one:.1f}" if one else "" for one in (self.seconds, self.promised)]
        return [self.trial.death.name, self.trial.where, self.state, alert, *times, self.fault]
