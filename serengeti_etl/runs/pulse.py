"""Since when a run has not written, by the watcher's own clock.

A heartbeat is a time of the run's clock, and the watcher's may be wrong by minutes. So what counts
is how long the heartbeat has not changed while the watcher looked, by a clock that nobody sets.
Time in which it could not see the run does not count: a bucket that is away says nothing of it.

Who looks twice a minute sees a last heartbeat late. How late is known at least: of all heartbeats
seen, the one that came soonest tells what the two clocks differ by at most. A run's clock that is
set meanwhile adds no more than the time between two looks.
"""

from dataclasses import dataclass

from serengeti_etl.runs.status import Status


@dataclass(slots=True)
class Pulse:
    """What has been seen of one run's heartbeat; times are of a monotonic clock.

    Attributes:
        heartbeat_at: the last one seen; None before the first.
        quiet_since: since when it has not changed while it could be seen; None while unseen.
        has_beaten: whether it was seen to change.
        looked_at: the last look, while the run could be seen.
        written_after: the last look before the heartbeat was seen: it was not there then.
        soonest: least that a heartbeat was behind the clock when it was seen.
    """

    heartbeat_at: float | None = None
    quiet_since: float | None = None
    has_beaten: bool = False
    looked_at: float | None = None
    written_after: float | None = None
    soonest: float = float("inf")

    def see(self, status: Status | None, now: float) -> float:
        """Seconds for which the run is known not to have written, at the least.

        Args:
            status: what was read; None if it could not be seen.
            now: of the monotonic clock.
        """
        if status is None:
            self.quiet_since = self.looked_at = self.written_after = None
            return 0.0
        if status.heartbeat_at != self.heartbeat_at:
            self.has_beaten = self.heartbeat_at is not None
            self.heartbeat_at, self.quiet_since = status.heartbeat_at, now
            self.written_after = self.looked_at
        elif self.quiet_since is None:
            self.quiet_since = now
        self.looked_at = now
        self.soonest = min(self.soonest, now - status.heartbeat_at)
        quiet = now - self.quiet_since
        if not quiet or self.written_after is None:
            return quiet
        behind = now - status.heartbeat_at - self.soonest
        return max(quiet, min(behind, now - self.written_after))
