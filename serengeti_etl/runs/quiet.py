"""Repeats of an alert are held back for a while, and counted."""

import dataclasses
import time
from dataclasses import dataclass

from serengeti_etl.runs.alert import Alert


@dataclass(slots=True)
class _Window:
    end: float
    first_held_at: float = 0.0
    last_held: Alert | None = None
    num_held: int = 0


class Quiet:
    """Lets the same alert through once in so many seconds; the rest as one, with their number.

    Args:
        seconds: between two of the same key.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._windows: dict[tuple[str, str], _Window] = {}

    def take(self, alert: Alert, now: float) -> Alert | None:
        """``alert`` if it is to be sent now; None while it is held back.

        Args:
            alert: a new one.
            now: seconds since 1970.
        """
        window = self._windows.get(alert.key)
        if window is None or now >= window.end:
            held = window.num_held if window else 0
            since = window.first_held_at if window else 0.0
            self._windows[alert.key] = _Window(now + self._seconds)
            return _counted(alert, held, since)
        if not window.num_held:
            window.first_held_at = now
        window.last_held, window.num_held = alert, window.num_held + 1
        return None

    def due(self, now: float) -> list[Alert]:
        """The last of each kind that was held back until now, with how many there were."""
        found = []
        for key, window in list(self._windows.items()):
            if now < window.end:
                continue
            if window.last_held is None:
                del self._windows[key]
                continue
            found.append(_counted(window.last_held, window.num_held - 1, window.first_held_at))
            self._windows[key] = _Window(now + self._seconds)
        return found

    def rest(self) -> list[Alert]:
        """All that is held back, at the end."""
        found = self.due(float("inf"))
        self._windows = {}
        return found

    @property
    def next_due(self) -> float | None:
        """When something held back is to be sent; None if nothing is."""
        ends = [window.end for window in self._windows.values() if window.num_held]
        return min(ends, default=None)


def _counted(alert: Alert, num_more: int, since: float) -> Alert:
    if not num_more:
        return alert
    clock = time.strftime("%H:%M UTC", time.gmtime(since))
    return dataclasses.replace(alert).with_note(f"and {num_more} more since {clock}")
