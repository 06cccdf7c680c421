"""What a watcher makes of what it sees of a run; pure, so that every case can be tested.

Two clocks take part. A heartbeat is a time of the run's clock, which may differ from the watcher's
by minutes, so its plain age proves nothing unless it is great. The rule:

- What says that it is done, failed or stopped is that.
- A heartbeat that the watcher has seen change: the run is LOST when it has then been seen not to
  change for ``lost_after_seconds``, see ``pulse``; its plain age does not matter.
- A heartbeat that it has not seen change yet, as when the watch begins: LOST at once when its age
  is beyond ``lost_after_seconds`` and ten minutes more, which no two clocks in use differ by; else
  when it has been seen not to change for ``lost_after_seconds``. Until then it is as the run said
  last, but not for sure if by its age it might be lost.
- LOST ends only by another heartbeat, not by a store that was away.
- STALLED is between two times of the run's own clock.
- What cannot be seen has no state, and that time does not count against it.
"""

from dataclasses import dataclass, field

from serengeti_etl.runs.look import Look
from serengeti_etl.runs.pulse import Pulse
from serengeti_etl.runs.status import State

CLOCK_SECONDS = 600.0
"""What two clocks may differ by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What a run is to the watcher.

    Attributes:
        state: None while it cannot be seen.
        is_sure: False where only time will tell whether it is lost.
        silent_seconds: since it was last known to write.
    """

    state: State | None
    is_sure: bool = True
    silent_seconds: float = 0.0


@dataclass(slots=True)
class Vigil:
    """The watch over one run; see the rule above.

    Attributes:
        pulse: of its heartbeat.
        lost_beat: the heartbeat that it was lost with; None while it is not lost.
    """

    pulse: Pulse = field(default_factory=Pulse)
    lost_beat: float | None = None

    def see(self, look: Look, now: float, ticks: float) -> Sight:
        """What it is.

        Args:
            look: just taken.
            now: seconds since 1970, by the watcher's clock.
            ticks: seconds of a clock that nobody sets.
        """
        status = look.status
        quiet = self.pulse.see(status, ticks)
        if status is None:
            return Sight(state=None, is_sure=False)
        age, limit = now - status.heartbeat_at, status.lost_after_seconds
        silent = quiet if self.pulse.has_beaten else max(quiet, age)
        state = status.state(status.heartbeat_at)
        if status.said != "running":
            self.lost_beat = None
            return Sight(state=state, silent_seconds=silent)
        is_old = not self.pulse.has_beaten and age > limit + CLOCK_SECONDS
        if quiet > limit or is_old or self.lost_beat == status.heartbeat_at:
            self.lost_beat = status.heartbeat_at
            return Sight(state=State.LOST, silent_seconds=silent)
        self.lost_beat = None
        is_sure = self.pulse.has_beaten or abs(age) <= limit
        return Sight(state=state, is_sure=is_sure, silent_seconds=silent)
