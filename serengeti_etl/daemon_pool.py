"""Threads for work that may hang, which never keep the process from ending."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


class DaemonPool:
    """As a ``ThreadPoolExecutor``, which Python waits for at its end, however long that takes.

    Args:
        num_threads: most that work at once.
        name: of the threads.
        begin: called in each thread before all else.
    """

    def __init__(
        self, num_threads: int, name: str, begin: Callable[[], object] | None = None
    ) -> None:
        self._num_threads, self._name, self._begin = num_threads, name, begin
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._is_abandoned = False

    def submit(
        self, function: Callable[P, ResultT], *args: P.args, **kwargs: P.kwargs
    ) -> "Future[ResultT]":
        """The result of a call, or what it raised, once a thread has made it."""
        call = _Call(lambda: function(*args, **kwargs))
        self._waiting.put(call)
        if len(self._threads) < self._num_threads:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return call.future

    def abandon(self) -> None:
        """Begin nothing more; what is under way is not waited for, and its thread then ends."""
        self._is_abandoned = True
        for _ in self._threads:
            self._waiting.put(None)

    def join(self, seconds: float) -> None:
        """Wait for what is under way after ``abandon``, for so many seconds in all."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        if self._begin is not None:
            self._begin()
        for call in iter(self._waiting.get, None):
            if self._is_abandoned:
                return
            call.make()


class _Call(Generic[ResultT]):
    """A call to make, as a context that hands what is raised in it to who waits for the result."""

    def __init__(self, call: Callable[[], ResultT]) -> None:
        self.future: Future[ResultT] = Future()
        self._call = call

    def make(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        with self:
            self.future.set_result(self._call())

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if error is not None:
            self.future.set_exception(error)
        return True
