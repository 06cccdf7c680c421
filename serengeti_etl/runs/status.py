"""What a run says of itself, as ``status.json``, and what a reader makes of it.

A run cannot say that it died. So it says two times: when it last came on, and when it last wrote.
Whoever reads them, a page on a phone or ``watch``, works out the state from them and a clock.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Self

from serengeti_etl.errors import RunError
from serengeti_etl.runs.last_word import Ended, RunKind

STATUS_FILE = "status.json"
EVENTS_FILE = "events.jsonl"
METRICS_FILE = "metrics.jsonl"
PAGE_FILE = "index.html"
REPORT_FILE = "report.html"
FORMAT = "serengeti-status/1"

Said = Literal["running"] | Ended
"""What a run last said of itself."""

NUM_BEATS_LOST = 4
"""Heartbeats that may be missing before a run counts as lost."""

LEAST_LOST_SECONDS = 30.0
"""Never less than this: a bucket may be slow, and two clocks differ."""


class State(StrEnum):
    """What a reader shows of a run.

    ``RUNNING``: it comes on. ``STALLED``: it writes, but comes on no more. ``LOST``: it has not
    written for too long. ``STOPPED``: it was asked to stop, and can go on. ``FAILED``: it gave up.
    ``DONE``: it is finished.
    """

    RUNNING = "RUNNING"
    STALLED = "STALLED"
    LOST = "LOST"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    DONE = "DONE"

    @property
    def is_trouble(self) -> bool:
        """True where someone should look."""
        return self in (State.STALLED, State.LOST, State.FAILED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The contents of ``status.json``. Times are seconds since 1970, UTC.

    Attributes:
        kind: what kind of run it is.
        name: of the run, for people.
        run_id: of the run; stays when it is continued.
        said: what the run says of itself; a reader goes by ``state``.
        stage: what it works at.
        step: units done.
        num_steps: units in all; None while unknown.
        unit: of steps, in the plural, such as ``steps`` or ``images``.
        started_at: when this process began.
        progress_at: when it last came on.
        heartbeat_at: when this was written.
        heartbeat_seconds: between two writings.
        stall_after_seconds: without progress it counts as stalled.
        rate: units per second, of late; None while unknown.
        eta_seconds: left at that rate; None while unknown.
        seconds_before: that earlier processes of the same run took.
        hourly_rate: price of an hour of the machines; None if nobody said.
        values: the latest figures by name, such as ``loss`` or ``images_per_second``.
        reason: why it stopped or failed, in one line; "" otherwise.
        host: name of the machine.
        pid: of the process.
        versions: of code and libraries.
    """

    kind: RunKind
    name: str
    run_id: str
    said: Said
    stage: str
    step: int
    num_steps: int | None
    unit: str
    started_at: float
    progress_at: float
    heartbeat_at: float
    heartbeat_seconds: float
    stall_after_seconds: float
    rate: float | None = None
    eta_seconds: float | None = None
    seconds_before: float = 0.0
    hourly_rate: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    host: str = ""
    pid: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def lost_after_seconds(self) -> float:
        """Without a heartbeat for so long the run counts as lost."""
        return max(LEAST_LOST_SECONDS, NUM_BEATS_LOST * self.heartbeat_seconds)

    @property
    def seconds(self) -> float:
        """Wall time of this run so far, all its processes together."""
        return self.seconds_before + self.heartbeat_at - self.started_at

    @property
    def cost(self) -> float | None:
        """Of the machines so far, in the currency of ``hourly_rate``."""
        return None if self.hourly_rate is None else self.hourly_rate * self.seconds / 3600

    def state(self, now: float) -> State:
        """What it is to a reader at ``now``. ``page.html`` works it out in the same way."""
        if self.said != "running":
            return State(self.said.upper())
        if now - self.heartbeat_at > self.lost_after_seconds:
            return State.LOST
        # By the run's own clock: the reader's may go wrong by minutes.
        if self.heartbeat_at - self.progress_at > self.stall_after_seconds:
            return State.STALLED
        return State.RUNNING

    def to_json(self) -> dict[str, Any]:
        """Plain values, with cost and the time that makes a run lost; ``from_json`` reads it."""
        derived = {"cost": self.cost, "lost_after_seconds": self.lost_after_seconds}
        return dataclasses.asdict(self) | derived | {"format": FORMAT}

    @classmethod
    def from_json(cls, value: Any, where: str) -> Self:
        """The status of ``to_json``'s value.

        Args:
            value: parsed JSON.
            where: it was found, for messages.

        Raises:
            RunError: it is none.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise RunError(f"{where} is no status of format {FORMAT}; is it of another version?")
        names = {one.name for one in dataclasses.fields(cls)}
        try:
            return cls(**{name: value[name] for name in names & value.keys()})
        except TypeError as error:
            raise RunError(f"{where} is damaged: {error}") from error
