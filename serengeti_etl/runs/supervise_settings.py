"""When a supervisor begins a run again, when it ends a child, and when it gives up."""

from dataclasses import dataclass

from serengeti_etl.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class SuperviseSettings:
    """When to begin again, and when to stop.

    Attributes:
        max_restarts: without progress in between.
        first_wait_seconds: before the first of them; each later one waits twice as long.
        longest_wait_seconds: at most.
        grace_seconds: a stall may last so much longer than the run allows itself.
        lost_grace_seconds: the same for a heartbeat that stands still: the run may be well, and
            unable to write to a bucket that can be read.
        start_seconds: a child that has not written its status by then hangs; None for a command
            that may never write one.
        save_seconds: for a child that was asked to stop, before it is killed.
        poll_seconds: between two looks at the child.
        max_hours: of the whole run, all its starts together; None for no limit.
        hourly_rate: price of an hour of the machines.
        max_cost: of the whole run; needs ``hourly_rate``.
    """

    max_restarts: int = 10
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 300.0
    grace_seconds: float = 60.0
    lost_grace_seconds: float = 300.0
    start_seconds: float | None = None
    save_seconds: float = 27.0
    poll_seconds: float = 1.0
    max_hours: float | None = None
    hourly_rate: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        require(self.max_restarts >= 0, "max_restarts", self.max_restarts, "0 or more")
        for name in ("start_seconds", "max_hours", "hourly_rate", "max_cost"):
            value = getattr(self, name)
            require(value is None or value > 0, name, value, "positive")
        is_known = self.max_cost is None or self.hourly_rate is not None
        require(is_known, "hourly_rate", None, "given, as max_cost is")

    def wait_seconds(self, num_restarts: int) -> float:
        """Before the restart of that number, from 1, without progress."""
        return min(self.longest_wait_seconds, self.first_wait_seconds * 2.0 ** (num_restarts - 1))

    def over_limit(self, seconds: float) -> str:
        """Why a run that has taken so long must end; "" if it may go on."""
        hours = seconds / 3600
        if self.max_hours is not None and hours >= self.max_hours:
            return f"it has taken {hours:.4g} hours, and may take {self.max_hours:.4g}"
        if self.max_cost is not None and self.hourly_rate is not None:
            cost = hours * self.hourly_rate
            if cost >= self.max_cost:
                return f"it has cost {cost:.2f}, and may cost {self.max_cost:.2f}"
        return ""
