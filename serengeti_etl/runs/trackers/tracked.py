"""A tracker that can neither slow nor break a run."""

from collections.abc import Callable, Mapping
from functools import partial

from serengeti_etl.runs.aside import Aside
from serengeti_etl.runs.last_word import Ended
from serengeti_etl.runs.trackers.tracker import TrackedRun, Tracker

NUM_FAILURES = 3
"""In a row, after which a tracker is asked no more."""

_FINISH_SECONDS = 10.0
_LIMIT = 1000


class Tracked:
    """Has a tracker work in a thread of its own; what it raises is told, and no more than that.

    Args:
        name: of the tracker, for messages.
        tracker: it.
        tell: called in its thread with one line, when it is given up, and with what was lost.
        limit: calls that may wait for it.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        tell: Callable[[str], object],
        limit: int = _LIMIT,
    ) -> None:
        self._name, self._tracker, self._tell = name, tracker, tell
        self._aside = Aside(f"tracker {name}", self._failed, limit)
        self._is_started = self._is_off = False
        self._num_failures = self._num_dropped = 0

    def start(self, run: TrackedRun) -> None:
        """See ``Tracker``."""
        self._put(partial(self._start, run))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._put(partial(self._tracker.log, step, dict(values)))

    def finish(self, ended: Ended) -> None:
        """See ``Tracker``; returns within seconds, finished or not."""
        # Whatever waits, this is not dropped.
        self._aside.put_last(partial(self._call, partial(self._finish, ended)))
        if not self._aside.join(_FINISH_SECONDS):
            self._tell(f"tracker {self._name} did not finish in time")
        if self._num_dropped:
            self._tell(f"tracker {self._name} was too slow for {self._num_dropped} calls")

    def _put(self, call: Callable[[], object]) -> None:
        if not self._is_off and not self._aside.put(partial(self._call, call)):
            self._num_dropped += 1

    def _call(self, call: Callable[[], object]) -> None:
        if self._is_off:
            return
        call()
        self._num_failures = 0

    def _start(self, run: TrackedRun) -> None:
        self._tracker.start(run)
        self._is_started = True

    def _finish(self, ended: Ended) -> None:
        if self._is_started:
            self._tracker.finish(ended)

    def _failed(self, error: BaseException) -> None:
        self._num_failures += 1
        if self._is_started and self._num_failures < NUM_FAILURES:
            return
        self._is_off = True
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        self._tell(f"tracker {self._name} is given up: {why}")
