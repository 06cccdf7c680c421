"""What a run tells of itself, in memory, until its board writes it down."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serengeti_etl.errors import require
from serengeti_etl.runs.last_word import RunKind
from serengeti_etl.runs.pace import Pace
from serengeti_etl.runs.status import Said
from serengeti_etl.storage import Store

Level = Literal["info", "warning", "critical"]

_HEARTBEAT_SECONDS = {"folder": 5.0, "bucket": 15.0}

_QUIET_SECONDS = 600.0
"""The same event is not told again for so long."""

_MOST_EVENTS = 5000
"""Of one process: who warns of each photograph of a million must not fill the bucket."""

_NUM_LOG_LINES = 40
_MOST_EVENT_TEXT, _MOST_LINE_TEXT = 1000, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardSettings:
    """What a board says of its run from the start, and how often it writes.

    Attributes:
        kind: what kind of run it is.
        name: of the run, for people.
        unit: of steps, in the plural.
        stall_after_seconds: without progress the run counts as stalled, and its stack is kept.
        heartbeat_seconds: between two writings; None means 5 in folders and 15 in buckets.
        hourly_rate: price of an hour of the machines; None if nobody said.
        versions: of code and libraries.
    """

    kind: RunKind
    name: str
    unit: str = "steps"
    stall_after_seconds: float = 600.0
    heartbeat_seconds: float | None = None
    hourly_rate: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stall, beat, rate = self.stall_after_seconds, self.heartbeat_seconds, self.hourly_rate
        require(stall > 0, "stall_after_seconds", stall, "positive")
        require(beat is None or beat > 0, "heartbeat_seconds", beat, "positive")
        require(rate is None or rate >= 0, "hourly_rate", rate, "0 or more")

    def beat_seconds(self, store: Store) -> float:
        """Between two writings to ``store``."""
        if self.heartbeat_seconds is not None:
            return self.heartbeat_seconds
        return _HEARTBEAT_SECONDS["bucket" if store.local_path("") is None else "folder"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """A photograph that the model was shown, and what it made of it.

    Attributes:
        name: of the photograph.
        jpeg: it, small.
        truth: categories that it shows.
        predicted: the likeliest categories with their probabilities, the likeliest first.
    """

    name: str
    jpeg: bytes
    truth: tuple[str, ...]
    predicted: tuple[tuple[str, float], ...]


@dataclass(kw_only=True, slots=True)
class Notes:
    """All that a run told, for two threads: ``lock`` is held while it changes or is read.

    Attributes:
        started_at: when this process began.
        run_id: of the run; "" until known.
        said: what the run says of itself.
        reason: why it stopped or failed.
        stage: what it works at.
        step: units done.
        num_steps: units in all.
        marks: step at which each stage begins, with its name.
        progress_at: when it last came on.
        paused_at: since when no units are meant to be done; None while they are.
        paused_seconds: in which none were, before that.
        pace: how fast it comes on.
        figures: the latest by name.
        events: not yet written.
        log: the last lines with their time.
        samples: what the model makes of photographs.
        is_changed: since it was last written.
        wants_report: that the page be written for pre-signed links too.
        lock: see above.
        wake: set when there is news that should not wait for a heartbeat.
        closing: set when nothing more will be told.
        is_silent: nothing more is written either: another process speaks here now.
        told: when each event was told last, by kind and text.
    """

    started_at: float = field(default_factory=time.time)
    run_id: str = ""
    said: Said = "running"
    reason: str = ""
    stage: str = ""
    step: int = 0
    num_steps: int | None = None
    marks: tuple[tuple[int, str], ...] = ()
    progress_at: float = 0.0
    paused_at: float | None = None
    paused_seconds: float = 0.0
    pace: Pace = field(default_factory=lambda: Pace(0, 0.0))
    figures: dict[str, float] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    log: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_NUM_LOG_LINES))
    samples: tuple[Sample, ...] = ()
    is_changed: bool = True
    wants_report: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    wake: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    is_silent: bool = False
    told: dict[tuple[str, str], float] = field(default_factory=dict)

    def add_event(self, kind: str, text: str, level: Level) -> None:
        """Something happened; the same is told once in a while only."""
        now, text = time.time(), _cut(text, _MOST_EVENT_TEXT)
        with self.lock:
            is_repeated = now - self.told.get((kind, text), float("-inf")) < _QUIET_SECONDS
            is_flood = len(self.told) >= _MOST_EVENTS and level != "critical"
            if is_repeated or is_flood:
                return
            self.told[kind, text] = now
            row = {"time": round(now, 3), "kind": kind, "level": level, "text": text}
            self.events.append(row | {"step": self.step, "stage": self.stage})
            self.is_changed = True
        if level != "info":
            self.wake.set()

    def add_line(self, line: str) -> None:
        """A line for the log."""
        with self.lock:
            self.log.append((time.time(), _cut(line, _MOST_LINE_TEXT)))
            self.is_changed = True


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
