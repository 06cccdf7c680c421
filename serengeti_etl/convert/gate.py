"""Many at once, or one alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets any number of threads through together, or a single one while no other is inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_inside = 0
        self._num_waiting = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be inside with others; waits while one is alone or wants to be."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_inside >= 0 and not self._num_waiting)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be inside alone; waits until the others have left."""
        with self._changed:
            self._num_waiting += 1
            self._changed.wait_for(lambda: self._num_inside == 0)
            self._num_waiting -= 1
            self._num_inside = -1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside = 0
                self._changed.notify_all()
