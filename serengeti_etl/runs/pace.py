"""How fast a run comes on, and when it will be done."""

from collections import deque

_WINDOW_SECONDS = 300.0
"""The rate is that of so long; of longer, where steps are rarer."""


class Pace:
    """Units per second of late, without the times in which none are meant to be done.

    Such as a validation: it slows the run, so it counts for the time left, but not for the rate.

    Args:
        step: units done when this begins.
        now: seconds of any clock, as in all that follows.
    """

    def __init__(self, step: int, now: float) -> None:
        self._started_at = now
        self._marks = deque([(0.0, step)])

    def note(self, step: int, now: float, paused_seconds: float) -> None:
        """So far has it come.

        Args:
            step: units done.
            now: likewise.
            paused_seconds: of all time since the beginning.
        """
        worked = now - self._started_at - paused_seconds
        if step == self._marks[-1][1]:
            return
        if step < self._marks[-1][1]:
            self._marks.clear()
        self._marks.append((worked, step))
        while len(self._marks) > 2 and worked - self._marks[1][0] > _WINDOW_SECONDS:  # noqa: PLR2004 - a rate needs two
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Units per second; None while unknown."""
        (first, before), (last, after) = self._marks[0], self._marks[-1]
        return (after - before) / (last - first) if last > first else None

    def seconds_left(self, num_left: int, now: float, paused_seconds: float) -> float | None:
        """Until so many more units are done; None while unknown."""
        rate, worked = self.rate, now - self._started_at - paused_seconds
        if not rate or worked <= 0:
            return None
        return num_left / rate * (1 + paused_seconds / worked)
