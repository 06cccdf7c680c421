"""Whether a child of a supervisor hangs, by what is seen of its run; pure.

It hangs when it has written no status for ``start_seconds``, if it is one that writes one; when its
status says that it came on no more (a stall); or when its heartbeat is seen to stand still, though
it has beaten since this start. What an earlier start has written says nothing of this one. While
the run cannot be seen nothing is held against the child.
"""

from dataclasses import dataclass, field

from serengeti_etl.runs.look import Look
from serengeti_etl.runs.pulse import Pulse
from serengeti_etl.runs.supervise_settings import SuperviseSettings


@dataclass(kw_only=True, slots=True)
class Signs:
    """Signs of life of one start; times are of a monotonic clock.

    Attributes:
        settings: how long it may be without one.
        before: what was seen of the run just before the start.
        pulse: of its heartbeat.
        has_begun: whether it has written since the start.
        waited_seconds: for that, while the run could be seen.
        seen_at: the last look, while the run could be seen; else None.
    """

    settings: SuperviseSettings
    before: Look
    pulse: Pulse = field(default_factory=Pulse)
    has_begun: bool = False
    waited_seconds: float = 0.0
    seen_at: float | None = None

    def hang(self, look: Look, now: float) -> str:
        """Why the child counts as hung; "" if it does not.

        Args:
            look: the last that was seen, of after the start.
            now: of the monotonic clock.
        """
        status, settings = look.status, self.settings
        quiet = self.pulse.see(status, now)
        self.has_begun = self.has_begun or self.pulse.has_beaten or self._is_new(look)
        if not self.has_begun:
            return self._hang_at_start(look, now)
        if status is None or status.said != "running":
            return ""
        stalled = status.heartbeat_at - status.progress_at
        if stalled > status.stall_after_seconds + settings.grace_seconds:
            return f"it had not come on for {stalled:.0f} s and was killed"
        if quiet > status.lost_after_seconds + settings.lost_grace_seconds:
            return f"it had not written for {quiet:.0f} s and was killed"
        return ""

    def _is_new(self, look: Look) -> bool:
        """Whether the status is this start's; of what could not be seen before nobody knows."""
        if look.status is None or self.before.fault:
            return False
        old = self.before.status
        return old is None or old.heartbeat_at != look.status.heartbeat_at

    def _hang_at_start(self, look: Look, now: float) -> str:
        # A damaged status can be seen: the child would have written over it.
        can_be_seen = look.is_there or not look.fault
        if can_be_seen and self.seen_at is not None:
            self.waited_seconds += now - self.seen_at
        self.seen_at = now if can_be_seen else None
        limit, waited = self.settings.start_seconds, self.waited_seconds
        if limit is None or waited <= limit:
            return ""
        return f"it had written no status {waited:.0f} s after its start and was killed"
