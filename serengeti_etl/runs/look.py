"""The status of a run as it lies in its prefix, read beside other work."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import RunError, SerengetiError
from serengeti_etl.runs.status import STATUS_FILE, Status
from serengeti_etl.storage import Store

_CHECKPOINTS = "checkpoints"
_STALE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What was seen of a run at one time.

    Attributes:
        status: None if there is none, or it could not be read.
        step: of the status or the newest checkpoint, whichever is later; 0 without both.
        fault: why it could not be seen; "" if it could, even if there is nothing.
        is_there: whether it has a status, which may be damaged.
    """

    status: Status | None = None
    step: int = 0
    fault: str = ""
    is_there: bool = False


def read_status(store: Store) -> Status | None:
    """What the run at ``store`` says of itself; None where there is no run.

    Raises:
        RunError: its status is damaged.
        OSError: it cannot be read.
    """
    try:
        value = store.read_json(STATUS_FILE)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{STATUS_FILE} in {store.url} is no JSON: {error}") from error
    return Status.from_json(value, f"{STATUS_FILE} in {store.url}")


def look_at(store: Store, *, with_checkpoints: bool = False) -> Look:
    """What there is to see of the run at ``store``; never raises what a store may."""
    try:
        status = read_status(store)
        step = status.step if status else 0
        if with_checkpoints:
            step = max(step, *_saved_steps(store), 0)
    except (SerengetiError, OSError) as error:
        is_damaged = isinstance(error, RunError)
        return Look(fault=str(error) or type(error).__name__, is_there=is_damaged)
    return Look(status=status, step=step, is_there=status is not None)


def _saved_steps(store: Store) -> list[int]:
    """Steps of checkpoints named like ``step-000000500.pt``; [0] without any."""
    names = (name.rpartition("step-")[2].partition(".")[0] for name in store.list(_CHECKPOINTS))
    return [0, *(int(name) for name in names if name.isdecimal())]


def look_anew(store: Store, seconds: float) -> Look:
    """What there is to see now, checkpoints too, if the store answers within so many seconds."""
    pool = DaemonPool(1, "look anew at the run")
    coming = pool.submit(look_at, store, with_checkpoints=True)
    wait([coming], seconds)
    pool.abandon()
    return coming.result() if coming.done() else Look(fault="no answer")


class Looker:
    """Looks at a run again and again in a thread: a store that hangs does not hold up who asks.

    Args:
        look: takes a look; may take long.
        every: seconds between two.
        pool: of the thread; one of its own by default.
        clock: a monotonic one.
    """

    def __init__(
        self,
        look: Callable[[], Look],
        every: float,
        pool: DaemonPool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look, self._every, self._clock = look, every, clock
        self._pool = pool or DaemonPool(1, "look at the run")
        self._coming: Future[Look] | None = None
        self._latest, self._asked_at = Look(fault="not seen yet"), float("-inf")
        self._seen_at = self._polled_at = clock()

    def take(self) -> Look | None:
        """A look that was not taken yet; one with a fault when no answer comes; else None."""
        now = self._clock()
        was_held = now - self._polled_at > self._every + _STALE_SECONDS
        self._polled_at = now
        if was_held:
            # What came before this process was stopped says nothing of now.
            self._coming, self._asked_at, self._seen_at = None, float("-inf"), now
            self._latest = Look(fault="this process was held, and looks again")
            return self._latest
        if self._coming is not None and self._coming.done():
            self._latest, self._coming = self._coming.result(), None
            self._seen_at = now
            return self._latest
        if self._coming is None and now - self._asked_at >= self._every:
            self._asked_at = now
            self._coming = self._pool.submit(self._look)
        if now - self._seen_at > self._every + _STALE_SECONDS:
            # The one under way is still waited for.
            self._latest, self._seen_at = Look(fault="no answer"), now
            return self._latest
        return None

    def latest(self) -> Look:
        """The last look."""
        self.take()
        return self._latest
