"""Whether a run still writes, by the watcher's own clock.

A heartbeat is a time of the run's clock, and the watcher's may be wrong by minutes. So what counts
is how long the heartbeat has not changed while the watcher looked, by a clock that nobody sets.
Time in which it could not see the run does not count: a bucket that is away says nothing of it.
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
    """

    heartbeat_at: float | None = None
    quiet_since: float | None = None
    has_beaten: bool = False

    def see(self, status: Status | None, now: float) -> float:
        """Seconds for which the heartbeat has been seen not to change.

        Args:
            status: what was read; None if it could not be seen.
            now: of the monotonic clock.
        """
        if status is None:
            self.quiet_since = None
            return 0.0
        if status.heartbeat_at != self.heartbeat_at:
            self.has_beaten = self.heartbeat_at is not None
            self.heartbeat_at, self.quiet_since = status.heartbeat_at, now
        elif self.quiet_since is None:
            self.quiet_since = now
        return now - self.quiet_since
