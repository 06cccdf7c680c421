"""How full the queue of decoded batches was, each time that a batch was asked for."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concurrent.futures import Future


@dataclass(kw_only=True, slots=True)
class Depth:
    """How many batches lay ready when one was asked for; of no batch at first.

    Attributes:
        num_asked: batches that were asked for.
        num_ready: that lay ready, summed over these times.
        least: that ever lay ready.
    """

    num_asked: int = 0
    num_ready: int = 0
    least: int | None = None

    @property
    def mean(self) -> float | None:
        """That lay ready on average; None if nothing was asked for."""
        return self.num_ready / self.num_asked if self.num_asked else None

    def add(self, number: int) -> None:
        """One more time."""
        self.num_asked += 1
        self.num_ready += number
        self.least = number if self.least is None else min(self.least, number)


class ReadyBatches:
    """Notes the depth of a loader's queue; left out are the first batch of an epoch and its end.

    Then the queue is not full for another reason than that decoding is slow.

    Attributes:
        whole: since the first batch.
    """

    def __init__(self) -> None:
        self.whole, self._since = Depth(), Depth()

    def note(self, batches: Iterable[Iterable["Future[Any]"]]) -> None:
        """A batch is asked for, and these are in work, the next one first."""
        number = 0
        for tasks in batches:
            # What stands behind one that is not ready helps nobody yet.
            if not all(task.done() for task in tasks):
                break
            number += 1
        self.whole.add(number)
        self._since.add(number)

    def read(self) -> Depth:
        """Since the last reading."""
        since, self._since = self._since, Depth()
        return since
