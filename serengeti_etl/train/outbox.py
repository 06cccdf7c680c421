"""Writes that may come late: a store that is slow or away for a while stops no training."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from serengeti_etl.errors import Incomplete
from serengeti_etl.retry import is_transient
from serengeti_etl.runs.aside import Guard

PROMPT_SECONDS = 5.0
"""The training waits so long for a write, and then goes on beside it. A store that swallows packets
is asked for minutes before that is an error."""

RETRY_SECONDS = 5.0
"""Between two tries to deliver what is late; each of them is several requests."""

CLOSE_SECONDS = 5.0
"""For a try that is under way at the end."""


@dataclass(frozen=True, eq=False, slots=True)
class _Parcel:
    """What is to be delivered, and how."""

    kind: str
    name: str
    deliver: Callable[[], object]


class Outbox:
    """Delivers from a thread beside the training: at once if it can, else again and again.

    As a context it delivers nothing more after the block: another run may write there then.

    Args:
        on_late: called in the caller's thread with the error, when the store begins to be away.
    """

    def __init__(self, on_late: Callable[[OSError], object] = lambda _: None) -> None:
        self._on_late = on_late
        self._changed = threading.Condition()
        # By kind, in the order of their sending.
        self._waiting: dict[str, _Parcel] = {}
        self._arrived: list[str] = []
        self._away: OSError | None = None
        self._is_told = False
        self._error: BaseException | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def send(self, kind: str, name: str, deliver: Callable[[], object]) -> None:
        """Deliver, now or later, in place of what has not arrived of the same kind.

        Returns when it is there, when the store is away, or after ``PROMPT_SECONDS``.

        Args:
            kind: of which only the newest matters.
            name: of what is delivered, for ``arrived``.
            deliver: what writes it, in another thread; must not change by what the training does
                meanwhile.

        Raises:
            OSError: of this or an earlier delivery, one that does not pass by itself; or what else
                a delivery raised.
        """
        parcel = _Parcel(kind, name, deliver)
        with self._changed:
            self._raise_final()
            self._waiting.pop(kind, None)
            self._waiting[kind] = parcel
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
                self._thread.start()
            self._changed.wait_for(lambda: self._is_settled(parcel), PROMPT_SECONDS)
            self._raise_final()
        self._tell_late()

    def arrived(self) -> list[str]:
        """Names of what was delivered since the last call, in order."""
        self._tell_late()
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
            self._changed.wait_for(lambda: not self._waiting or self._error is not None, seconds)
            self._raise_final()
            if self._waiting:
                names = ", ".join(parcel.name for parcel in self._waiting.values())
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
        thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)

    def _is_settled(self, parcel: _Parcel) -> bool:
        """Whether there is no more to wait for: it has arrived, or will come late."""
        has_arrived = self._waiting.get(parcel.kind) is not parcel
        return has_arrived or self._away is not None or self._error is not None

    def _raise_final(self) -> None:
        if self._error is not None:
            raise self._error

    def _tell_late(self) -> None:
        with self._changed:
            away = None if self._is_told else self._away
            self._is_told = self._away is not None
        if away is not None:
            self._on_late(away)

    def _work(self) -> None:
        """Deliver what waits, until nothing does."""
        while (parcel := self._next()) is not None:
            with Guard(self._failed):
                parcel.deliver()
                self._delivered(parcel)

    def _next(self) -> _Parcel | None:
        """The parcel that waits the longest, once it is time for it; None ends the thread."""
        if self._away is not None:
            self._closing.wait(RETRY_SECONDS)
        with self._changed:
            if self._waiting and self._error is None and not self._closing.is_set():
                return next(iter(self._waiting.values()))
            self._thread = None
            return None

    def _delivered(self, parcel: _Parcel) -> None:
        with self._changed:
            self._arrived.append(parcel.name)
            if self._waiting.get(parcel.kind) is parcel:
                del self._waiting[parcel.kind]
            self._away = None
            self._changed.notify_all()

    def _failed(self, error: BaseException) -> None:
        with self._changed:
            if isinstance(error, OSError) and is_transient(error):
                self._away = error
            else:
                self._error = error
            self._changed.notify_all()
