"""An alert: what a person should know of a run, and how much it matters."""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much it matters; later ones matter more."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """From 0 up."""
        return list(Level).index(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """What to tell.

    Attributes:
        kind: what happened, in one word such as ``lost``; the same again of the same run is the
            same alert, which is not repeated at once.
        run: folder or url of the run.
        title: one line.
        text: more, for a person.
        tail: last lines of the run's output; "" without.
        level: how much it matters.
    """

    kind: str
    run: str
    title: str
    text: str = ""
    tail: str = ""
    level: Level = Level.INFO

    @property
    def key(self) -> tuple[str, str]:
        """Equal for repeats."""
        return self.kind, self.run

    def with_note(self, note: str) -> "Alert":
        """The same with one line more."""
        return dataclasses.replace(self, text=f"{self.text}\n{note}".strip())


class SendError(Exception):
    """An alert did not get through.

    Args:
        reason: why, without anything secret.
        may_pass: whether another try may help.
    """

    def __init__(self, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason, may_pass)
        self.reason = reason
        self.may_pass = may_pass

    def __str__(self) -> str:
        """The reason."""
        return self.reason
