"""A run that is begun again when it dies, is killed when it hangs, and ends when it costs too much.

The command says by its exit code how it ended: 0 and 2 are done; 4 is refused, where the same again
would end the same; all else, signals too, is worth another start, after a wait that grows while the
run does not come on. That it comes on is read from its ``status.json`` and checkpoints.

When a child hangs, ``signs`` says.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from serengeti_etl.runs.alert import Alert, Level
from serengeti_etl.runs.look import Look
from serengeti_etl.runs.signs import Signs
from serengeti_etl.runs.supervise_settings import SuperviseSettings

DONE_CODES = (0, 2)
HOPELESS_CODES = {4: "it was refused", 126: "it cannot be run", 127: "there is no such program"}

HOPELESS_REASONS = ("ConfigError: ", "DatasetError: ", "RunError: ")
"""How the reason of a failed run begins that would fail the same way again."""

NUM_TAIL_LINES = 30
"""Of the output, in an alert."""

_SIGNALS_FROM = 128


class Ending(Enum):
    """How a supervised run ended."""

    DONE = "done"
    STOPPED = "stopped"
    LIMIT = "limit"
    GAVE_UP = "gave up"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class _Told:
    """How a thing is told."""

    kind: str
    words: str
    level: Level


_DIED = _Told("died", "died", Level.WARNING)
_TOLD = {
    Ending.DONE: _Told("finished", "finished", Level.INFO),
    Ending.STOPPED: _Told("stopped", "stopped", Level.WARNING),
    Ending.LIMIT: _Told("limit", "stopped at its limit", Level.CRITICAL),
    Ending.GAVE_UP: _Told("gave-up", "given up", Level.CRITICAL),
    Ending.REFUSED: _Told("gave-up", "given up", Level.CRITICAL),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of a supervised run.

    Attributes:
        ending: how it ended.
        reason: one line.
        num_restarts: in all.
        code: the last exit code of the command.
    """

    ending: Ending
    reason: str
    num_restarts: int
    code: int


class Process(Protocol):
    """A command that runs; see ``child.Child``."""

    def code(self) -> int | None:
        """Its exit code; None while it runs."""

    def ask_to_stop(self) -> None:
        """Let it save and end."""

    def wait(self, seconds: float) -> int | None:
        """Its exit code, once it has ended within so many seconds; else None."""

    def dump(self) -> None:
        """Let it write its stacks and die."""

    def end(self) -> None:
        """Kill what is left of it."""

    def tail(self, num_lines: int) -> str:
        """Its last lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What a supervisor needs of the world, so that tests can give it another.

    Attributes:
        start: starts the command.
        watch: begins to look at the run; gives what tells the last that was seen of it since then,
            and does not block.
        look_anew: what is to be seen now, if it comes within seconds.
        wait: waits so many seconds; True at once when someone asked to stop.
        tell: sends an alert.
        clock: a monotonic one.
    """

    start: Callable[[], Process]
    watch: Callable[[], Callable[[], Look]]
    look_anew: Callable[[], Look]
    wait: Callable[[float], bool]
    tell: Callable[[Alert], object]
    clock: Callable[[], float] = time.monotonic


class Supervisor:
    """Runs a command until it is done, or there is no point.

    Args:
        run: folder or url of the run, for alerts.
        settings: when to begin again.
        world: to act in.
    """

    def __init__(self, run: str, settings: SuperviseSettings, world: World) -> None:
        self._run, self._settings, self._world = run, settings, world
        self._name = run.rstrip("/").rpartition("/")[2]
        self._begun = world.clock()
        self._seconds = 0.0
        self._furthest = 0
        self._num_restarts = 0

    def supervise(self) -> Outcome:
        """What became of it; alerts are sent on the way."""
        settings, in_vain = self._settings, 0
        while True:
            before = self._world.look_anew()
            self._note(before)
            furthest = self._furthest
            child = self._world.start()
            try:
                ending, reason = self._follow(child, before)
            finally:
                child.end()
            code = child.code() or 0
            after = self._world.look_anew()
            self._note(after)
            if ending is None and _refuses(before, after):
                ending, reason = Ending.REFUSED, after.status.reason if after.status else ""
            if ending is not None:
                return self._finish(child, ending, reason, code)
            in_vain = 1 if self._furthest > furthest else in_vain + 1
            if in_vain > settings.max_restarts:
                why = f"{reason}, and did not come on in {settings.max_restarts} restarts"
                return self._finish(child, Ending.GAVE_UP, why, code)
            wait = settings.wait_seconds(in_vain)
            text = (
                f"{reason}; restart {in_vain} of {settings.max_restarts} without progress "
                f"in {wait:.0f} s, at step {self._furthest}"
            )
            self._tell(_DIED, text, child)
            if self._world.wait(wait):
                return self._finish(child, Ending.STOPPED, "it was asked to stop", code)
            self._num_restarts += 1

    def _follow(self, child: Process, before: Look) -> tuple[Ending | None, str]:
        """How a start ended, None for a death, and why."""
        # What was seen before may be older than the last words of the start before.
        latest, signs = self._world.watch(), Signs(settings=self._settings, before=before)
        while True:
            code, look = child.code(), latest()
            self._note(look)
            if code is not None:
                return _judged(code)
            limit = self._settings.over_limit(self._seconds)
            hang = signs.hang(look, self._world.clock())
            if limit:
                self._stop(child)
                return Ending.LIMIT, limit
            if hang:
                child.dump()
                return None, hang
            if self._world.wait(self._settings.poll_seconds):
                code = self._stop(child)
                is_done = code in DONE_CODES
                return (Ending.DONE, "") if is_done else (Ending.STOPPED, "it was asked to stop")

    def _note(self, look: Look) -> None:
        self._furthest = max(self._furthest, look.step)
        seconds = 0.0
        if look.status is not None:
            seconds, self._name = look.status.seconds, look.status.name or self._name
        self._seconds = max(seconds, self._world.clock() - self._begun)

    def _stop(self, child: Process) -> int | None:
        """Let the child save and end; its exit code, None if it has to be killed."""
        child.ask_to_stop()
        return child.wait(self._settings.save_seconds)

    def _finish(self, child: Process, ending: Ending, reason: str, code: int) -> Outcome:
        text = reason
        if ending is Ending.DONE and self._num_restarts:
            text = f"after {self._num_restarts} restarts"
        self._tell(_TOLD[ending], text, child)
        return Outcome(ending=ending, reason=reason, num_restarts=self._num_restarts, code=code)

    def _tell(self, told: _Told, text: str, child: Process) -> None:
        alert = Alert(
            kind=told.kind,
            run=self._run,
            title=f"{self._name}: {told.words}",
            text=text,
            tail=child.tail(NUM_TAIL_LINES),
            level=told.level,
        )
        self._world.tell(alert)


def _refuses(before: Look, after: Look) -> bool:
    """Whether this start has said itself that another would end the same.

    torchrun ends with 1 whatever its ranks end with.
    """
    said, old = after.status, before.status
    is_new = said is not None and (old is None or said.started_at != old.started_at)
    return (
        said is not None
        and is_new
        and said.said == "failed"
        and said.reason.startswith(HOPELESS_REASONS)
    )


def _judged(code: int) -> tuple[Ending | None, str]:
    """What an exit code says; None where another start may help."""
    if code in DONE_CODES:
        return Ending.DONE, ""
    if code in HOPELESS_CODES:
        return Ending.REFUSED, f"it ended with {code}: {HOPELESS_CODES[code]}"
    if code > _SIGNALS_FROM:
        return None, f"it died of signal {code - _SIGNALS_FROM}"
    return None, f"it ended with {code}"
