"""How a run ended, as its page, its alerts and its trackers say alike."""

from dataclasses import dataclass
from typing import Literal

from serengeti_etl.errors import Incomplete, OutputHeld

RunKind = Literal["train", "convert"]

Ended = Literal["done", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LastWord:
    """What a block of work came to.

    Attributes:
        ended: ``done``; ``stopped``, as it was asked to; or ``failed``: a person should look.
        reason: why, in a line; "" if it is done.
        is_held: it is another's: that one says at this place how it is.
    """

    ended: Ended
    reason: str = ""
    is_held: bool = False

    @classmethod
    def of(cls, error: BaseException | None, kind: RunKind) -> "LastWord":
        """Of a block that raised ``error``.

        Args:
            error: None for a block that came to its end.
            kind: what it did: a training that is incomplete was stopped; a conversion has shards
                that failed.
        """
        if error is None:
            return cls(ended="done")
        if isinstance(error, OutputHeld):
            return cls(ended="stopped", reason=str(error), is_held=True)
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            return cls(ended="stopped", reason="interrupted")
        if isinstance(error, Incomplete) and kind == "train":
            return cls(ended="stopped", reason=str(error))
        return cls(ended="failed", reason=f"{type(error).__name__}: {error}")
