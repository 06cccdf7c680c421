"""The thread that writes a run's board down, whatever the store does."""

import json
import os
import secrets
import socket
import time

from serengeti_etl.errors import RunError, SerengetiError
from serengeti_etl.runs.curves import Curves
from serengeti_etl.runs.hang import Dump, HangWatch
from serengeti_etl.runs.notes import BoardSettings, Notes
from serengeti_etl.runs.page import Facts, Page
from serengeti_etl.runs.records import Records
from serengeti_etl.runs.status import EVENTS_FILE, PAGE_FILE, REPORT_FILE, STATUS_FILE, Status
from serengeti_etl.storage import Store

STACK_FILE = "stack.txt"

JSON, HTML, TEXT = "application/json", "text/html; charset=utf-8", "text/plain; charset=utf-8"

_LEAST_SECONDS = 1.0
"""Between two beats, however much happens."""

_NUM_LAST_TRIES = 4

_FAULTS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""Of this package's own: a run's last words must not be lost to one wrong figure."""


class Scribe:
    """See ``work``.

    Args:
        store: the run's prefix.
        settings: what is said from the start.
        notes: what is written down.
        hang: whose dumps are told of.
    """

    def __init__(
        self, store: Store, settings: BoardSettings, notes: Notes, hang: HangWatch
    ) -> None:
        self._store, self._settings, self._notes, self._hang = store, settings, notes, hang
        self._beat_seconds = settings.beat_seconds(store)
        self._events = Records(self._store, EVENTS_FILE)
        self._curves, self._page = Curves(), Page()
        self._run_id, self._seconds_before = "", 0.0
        self._host = socket.gethostname()
        self._is_taken_up = False
        self._stack: bytes | None = None
        self._hung_at: float | None = None
        self._away_since: float | None = None
        self._num_failures = 0

    def keep(self, metrics: Records, *, is_own: bool) -> None:
        """Write these records too; before ``work``.

        Args:
            metrics: of the run.
            is_own: true if nobody else takes up what is there of them.
        """
        self._metrics, self._owns_metrics = metrics, is_own

    def work(self) -> None:
        """Write at each heartbeat, and a last time once the board closes."""
        notes, least = self._notes, min(_LEAST_SECONDS, self._beat_seconds)
        while not notes.closing.is_set():
            started = time.monotonic()
            self._beat(is_last=False)
            seconds = self._beat_seconds - (time.monotonic() - started)
            notes.wake.wait(max(least, seconds))
            notes.wake.clear()
            notes.closing.wait(max(0.0, least - (time.monotonic() - started)))
        for _ in range(_NUM_LAST_TRIES):
            if notes.is_silent or self._beat(is_last=True):
                return
            time.sleep(least)

    def _beat(self, *, is_last: bool) -> bool:
        """True if all that is new is on storage now."""
        self._look_for_hang()
        try:
            self._take_up()
            self._write(is_last=is_last)
        except (OSError, SerengetiError, *_FAULTS) as error:
            self._num_failures += 1
            if self._away_since is None:
                self._away_since = time.time()
            self._notes.add_line(f"status could not be written: {error!r}")
            return False
        self._tell_that_it_was_away()
        return True

    def _take_up(self) -> None:
        """What an earlier process of this run left, once."""
        if self._is_taken_up:
            return
        run_id, seconds = self._read_status()
        wanted = self._notes.run_id
        self._run_id = wanted or run_id or secrets.token_hex(8)
        if run_id in ("", self._run_id):  # "" where the status is lost: the rest may be there
            self._seconds_before = seconds
            self._restore(self._events)
            if self._owns_metrics:
                self._restore(self._metrics)
        self._is_taken_up = True

    def _read_status(self) -> tuple[str, float]:
        """Id of the run that is there, and how long it has taken; "" and 0 where none is."""
        try:
            before = Status.from_json(self._store.read_json(STATUS_FILE), STATUS_FILE)
            return str(before.run_id), float(before.seconds)
        except (FileNotFoundError, ValueError, TypeError, RunError):
            return "", 0.0

    def _restore(self, records: Records) -> None:
        try:
            records.restore()
        except FileNotFoundError:
            return
        except ValueError as error:
            self._notes.add_event("damaged", f"what was told before is lost: {error}", "warning")

    def _write(self, *, is_last: bool) -> None:
        notes, now = self._notes, time.time()
        with notes.lock:
            is_changed, notes.is_changed = notes.is_changed, False
            wants_report = notes.wants_report
            events, notes.events = notes.events, []
        self._events.records += events
        status = self._status(now)
        if is_changed:
            self._draw(status)
        self._metrics.publish(is_last=is_last)
        self._events.publish(is_last=is_last)
        if self._stack is not None:
            self._store.publish(STACK_FILE, self._stack, TEXT)
            self._stack = None
        content = json.dumps(status.to_json(), indent=1, allow_nan=False)
        self._store.publish(STATUS_FILE, content.encode(), JSON)
        self._store.publish(PAGE_FILE, self._page.content(status, reloads=True), HTML)
        if wants_report:
            self._store.publish(REPORT_FILE, self._page.content(status, reloads=False), HTML)
            with notes.lock:
                notes.wants_report = False

    def _draw(self, status: Status) -> None:
        notes = self._notes
        self._curves.take(self._metrics.records)
        with notes.lock:
            log, marks, samples = tuple(notes.log), notes.marks, notes.samples
        facts = Facts(
            marks=marks,
            charts=self._curves.charts(status.kind),
            events=tuple(self._events.records[-10:]),
            log=log,
            samples=samples,
        )
        try:
            self._page.draw(status, facts)
        except _FAULTS as error:
            # A page that cannot be drawn must not keep the rest from being written.
            self._notes.add_event("page", f"the page could not be drawn: {error!r}", "warning")

    def _status(self, now: float) -> Status:
        notes, settings = self._notes, self._settings
        with notes.lock:
            paused = notes.paused_seconds
            if notes.paused_at is not None:
                paused += now - notes.paused_at
            notes.pace.note(notes.step, notes.progress_at, paused)
            is_over = notes.said != "running"
            left = None
            if notes.num_steps is not None and not is_over:
                num_left = notes.num_steps - notes.step
                left = notes.pace.seconds_left(num_left, now, paused)
            return Status(
                kind=settings.kind,
                name=settings.name,
                run_id=self._run_id,
                said=notes.said,
                stage=notes.stage,
                step=notes.step,
                num_steps=notes.num_steps,
                unit=settings.unit,
                started_at=notes.started_at,
                progress_at=notes.progress_at,
                heartbeat_at=now,
                heartbeat_seconds=self._beat_seconds,
                stall_after_seconds=settings.stall_after_seconds,
                rate=notes.pace.rate,
                eta_seconds=left,
                seconds_before=self._seconds_before,
                hourly_rate=settings.hourly_rate,
                values=dict(notes.figures),
                reason=notes.reason,
                host=self._host,
                pid=os.getpid(),
                versions=settings.versions,
            )

    def _look_for_hang(self) -> None:
        notes = self._notes
        # First: it may have come on and hang again since the last look.
        if self._hung_at is not None and notes.progress_at > self._hung_at:
            seconds = notes.progress_at - self._hung_at
            self._hung_at = None
            notes.add_event(
                "goes_on", f"it goes on, after {seconds:.0f} s without progress", "info"
            )
        dump = self._hang.dump()
        if dump is not None:
            self._stack = dump.text.encode()
            self._hung_at = notes.progress_at
            if notes.progress_at > dump.written_at:  # it has come on since
                self._hung_at = dump.written_at - self._settings.stall_after_seconds
            notes.add_event("hang", _hang_text(dump, time.time() - self._hung_at), "critical")

    def _tell_that_it_was_away(self) -> None:
        if self._away_since is None:
            return
        seconds, num_tries = time.time() - self._away_since, self._num_failures
        self._away_since, self._num_failures = None, 0
        if num_tries > 1:
            said = f"status could not be written for {seconds:.0f} s ({num_tries} tries)"
            self._notes.add_event("away", said, "warning")


def _hang_text(dump: "Dump", seconds: float) -> str:
    where = " < ".join(dump.frames) or "no Python code"
    return f"no progress for {seconds:.0f} s; the main thread stands in {where}; see {STACK_FILE}"
