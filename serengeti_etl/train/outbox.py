"""Writes that may come late: a store that is away for a while stops no training."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from serengeti_etl.errors import Incomplete
from serengeti_etl.retry import is_transient

RETRY_SECONDS = 5.0
"""Between two tries to deliver what is late; each of them is several requests."""

CLOSE_SECONDS = 5.0
"""For a try that is under way at the end."""


class Outbox:
    """Delivers now if it can; else from a thread beside the training, again and again.

    As a context it delivers nothing more after the block: another run may write there then.

    Args:
        on_late: called in the caller's thread with the error, when the store begins to be away.
    """

    def __init__(self, on_late: Callable[[OSError], object] = lambda _: None) -> None:
        self._on_late = on_late
        self._changed = threading.Condition()
        # By kind, in the order of their sending: the name of each, and how it is delivered.
        self._late: dict[str, tuple[str, Callable[[], object]]] = {}
        self._arrived: list[str] = []
        self._error: OSError | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, kind: str, name: str, deliver: Callable[[], object]) -> None:
        """Deliver, or have it delivered later in place of what is late of the same kind.

        Args:
            kind: of which only the newest matters.
            name: of what is delivered, for ``arrived``.
            deliver: what writes it; must not change by what the training does meanwhile.

        Raises:
            OSError: of this or an earlier delivery, one that does not pass by itself.
        """
        with self._changed:
            self._raise_final()
            is_away = bool(self._late)
            if is_away:
                self._late.pop(kind, None)
                self._late[kind] = name, deliver
        if is_away:
            return
        try:
            deliver()
        except OSError as error:
            if not is_transient(error):
                raise
            with self._changed:
                self._late[kind] = name, deliver
            self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
            self._thread.start()
            self._on_late(error)
        else:
            self._arrived.append(name)

    def arrived(self) -> list[str]:
        """Names of what was delivered since the last call, in order."""
        with self._changed:
            names, self._arrived = self._arrived, []
        return names

    def finish(self, seconds: float) -> None:
        """Return when all is delivered.

        Raises:
            Incomplete: it is not, after so many seconds.
            OSError: of a delivery, one that does not pass by itself.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._late or self._error is not None, seconds)
            self._raise_final()
            if self._late:
                names = ", ".join(name for name, _ in self._late.values())
                raise Incomplete(
                    f"{names} could not be written within {seconds:.0f} s, as the store is away"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _raise_final(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        """Deliver what is late, until nothing is."""
        while True:
            with self._changed:
                if self._closing.is_set():
                    return
                kind, (name, deliver) = next(iter(self._late.items()))
            try:
                deliver()
            except OSError as error:
                if not is_transient(error):
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                if self._closing.wait(RETRY_SECONDS):
                    return
                continue
            with self._changed:
                self._arrived.append(name)
                if self._late.get(kind) == (name, deliver):
                    del self._late[kind]
                if not self._late:
                    self._changed.notify_all()
                    return
