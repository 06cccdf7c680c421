"""Calls of no importance to a run, made beside it: they may fail, be slow or hang."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType


class Guard:
    """A context that hands on what is raised in it, instead of letting it through.

    Args:
        on_error: called with it.
    """

    def __init__(self, on_error: Callable[[BaseException], object]) -> None:
        self._on_error = on_error

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None:
            self._on_error(error)
        return True


class Aside:
    """Makes calls one after the other, in a thread that never keeps the process from ending.

    Args:
        name: of the thread.
        on_error: called in the thread with what a call raises.
        limit: calls that may wait; more are not taken.
    """

    def __init__(
        self, name: str, on_error: Callable[[BaseException], object], limit: int = 100
    ) -> None:
        self._name, self._on_error, self._limit = name, on_error, limit
        # Unlike Queue it may be put to by a signal handler that interrupts another put.
        self._waiting: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(self, call: Callable[[], object]) -> bool:
        """True if ``call`` will be made; False when too many wait, or it is closed. Never waits."""
        if self._is_closed or self._waiting.qsize() >= self._limit:
            return False
        self._take(call)
        return True

    def put_last(self, call: Callable[[], object]) -> None:
        """Make ``call`` after all that waits, however much that is, and no other after it."""
        if not self._is_closed:
            self._take(call)
            self.close()

    def close(self) -> None:
        """Take no more; the thread ends when it has made what waits."""
        self._is_closed = True
        self._waiting.put(None)

    def join(self, seconds: float) -> bool:
        """True if all is made after ``close`` and at most so many seconds."""
        if self._thread is None:
            return True
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _take(self, call: Callable[[], object]) -> None:
        self._waiting.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        for call in iter(self._waiting.get, None):
            with Guard(self._on_error):
                call()


def join_all(threads: "list[Aside]", seconds: float) -> bool:
    """True if all of them, closed before, are done within so many seconds in all."""
    end = time.monotonic() + seconds
    return all(one.join(end - time.monotonic()) for one in threads)
