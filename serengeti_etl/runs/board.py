"""The board of a run: what happens is noted in memory, and a thread beside it writes it down.

Nothing here may slow or break the run: its calls take microseconds and raise nothing; a store that
is away is asked again with the next heartbeat. Read ``Board`` first, then ``scribe.Scribe``.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from serengeti_etl.runs.hang import HangWatch
from serengeti_etl.runs.last_word import LastWord
from serengeti_etl.runs.notes import BoardSettings, Level, Notes, Sample
from serengeti_etl.runs.pace import Pace
from serengeti_etl.runs.records import Records, plain_numbers
from serengeti_etl.runs.scribe import Scribe
from serengeti_etl.runs.status import METRICS_FILE, Said
from serengeti_etl.storage import Store

__all__ = ["Board", "BoardSettings", "Level", "Said", "Sample"]

_CLOSE_SECONDS = 5.0
"""Longest wait for the store at the end of a run."""


class Board:
    """Tells of a run in files of its own prefix, from a thread beside it.

    As a context it closes with what the block ended with. Until ``open`` nothing is written, for a
    run that is refused must not speak for the one that is there.

    Args:
        store: the run's prefix.
        settings: what it says from the start.
        hang: the watchdog that is told of progress; None for one that ends nothing.
    """

    def __init__(
        self, store: Store, settings: BoardSettings, hang: HangWatch | None = None
    ) -> None:
        self.store, self.settings = store, settings
        self.notes = Notes()
        self._hang = hang or HangWatch(settings.stall_after_seconds)
        self._metrics = Records(store, METRICS_FILE)
        self._thread: threading.Thread | None = None

    def open(
        self,
        *,
        run_id: str = "",
        step: int = 0,
        num_steps: int | None = None,
        marks: Sequence[tuple[int, str]] = (),
        metrics: Records | None = None,
    ) -> None:
        """Begin to write; once.

        Args:
            run_id: of the run; "" means that of the run that is there, or a new one.
            step: units done before.
            num_steps: units in all.
            marks: step at which each stage begins, with its name.
            metrics: the run's own records, where it keeps them itself.
        """
        if self._thread is not None:
            return
        now, notes = time.time(), self.notes
        notes.run_id, notes.step, notes.num_steps, notes.marks = run_id, step, num_steps, (*marks,)
        notes.pace, notes.progress_at = Pace(step, now), now
        self._hang.touch()
        scribe = Scribe(self.store, self.settings, notes, self._hang)
        if metrics is None:
            scribe.keep(self._metrics, is_own=True)
        else:
            scribe.keep(metrics, is_own=False)
        self._thread = threading.Thread(target=scribe.work, name="board", daemon=True)
        self._thread.start()

    def progress(self, step: int, *, stage: str = "", num_steps: int | None = None) -> None:
        """So many units are done."""
        now = time.time()
        with self.notes.lock:
            notes = self.notes
            if notes.paused_at is not None:
                notes.paused_seconds += now - notes.paused_at
                notes.paused_at = None
            notes.step, notes.progress_at, notes.is_changed = step, now, True
            notes.stage = stage or notes.stage
            notes.num_steps = num_steps or notes.num_steps
        self._touch()

    def start_from(self, step: int, *, num_steps: int | None = None) -> None:
        """So many units were done before: they count for what is left, but not for the pace."""
        now, notes = time.time(), self.notes
        with notes.lock:
            notes.step, notes.progress_at, notes.is_changed = step, now, True
            notes.num_steps = num_steps or notes.num_steps
            notes.pace, notes.paused_at, notes.paused_seconds = Pace(step, now), None, 0.0
        self._touch()

    def pause(self, stage: str = "") -> None:
        """It comes on with something that is no unit, such as a validation; to be called often."""
        now = time.time()
        with self.notes.lock:
            notes = self.notes
            if notes.paused_at is None:
                notes.paused_at = now
            notes.progress_at, notes.is_changed = now, True
            notes.stage = stage or notes.stage
        self._touch()

    def show(self, values: Mapping[str, Any], samples: Sequence[Sample] | None = None) -> None:
        """The latest figures by name, and what the model makes of photographs."""
        with self.notes.lock:
            self.notes.figures.update(plain_numbers(values))
            if samples is not None:
                self.notes.samples, self.notes.wants_report = tuple(samples), True
            self.notes.is_changed = True

    def record(
        self, values: Mapping[str, Any], *, step: int | None = None, moment: float | None = None
    ) -> None:
        """A record for ``metrics.jsonl``, and the latest figures; of runs that keep none.

        Args:
            values: by name.
            step: units done by then; those of now by default.
            moment: when that was; now by default.
        """
        numbers = plain_numbers(values)
        where = {
            "time": round(time.time() if moment is None else moment, 3),
            "step": self.notes.step if step is None else step,
        }
        self._metrics.records.append({**where, **numbers})
        self.show(numbers)

    def event(self, kind: str, text: str, level: Level = "info") -> None:
        """Something happened that a person wants to know; repeats are told once in a while."""
        self.notes.add_event(kind, text, level)

    def log(self, line: str) -> None:
        """A line of what the command says."""
        self.notes.add_line(line)

    def close(self, said: Said, reason: str = "") -> None:
        """The last word, written within seconds or not at all; nothing if it was never opened."""
        if self._thread is None or self.notes.closing.is_set():
            return
        self._hang.end()
        with self.notes.lock:
            self.notes.said, self.notes.reason = said, reason
            self.notes.is_changed = self.notes.wants_report = True
        level: Level = "critical" if said == "failed" else "warning" if reason else "info"
        self.event(said, reason or f"{said}: {self.notes.step:,} {self.settings.unit}", level)
        self.notes.closing.set()
        self.notes.wake.set()
        self._thread.join(_CLOSE_SECONDS)

    def _touch(self) -> None:
        # Nobody would end a watch that began before or after: it would write, when its time is up,
        # to whatever file has its file's number by then.
        if self._thread is not None and not self.notes.closing.is_set():
            self._hang.touch()

    def _fall_silent(self) -> None:
        """Write no more: who has taken the place over says there how it is."""
        self._hang.end()
        self.notes.is_silent = True
        self.notes.closing.set()
        self.notes.wake.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        word = LastWord.of(error, self.settings.kind)
        if word.is_held:
            self._fall_silent()
        else:
            self.close(word.ended, word.reason)
