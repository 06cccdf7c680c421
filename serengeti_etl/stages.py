"""Where the time of a task goes."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Stages:
    """Seconds per stage, summed over the threads of one task."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the wall time of a ``with`` block to ``stage``, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - started
            with self._lock:
                self._seconds[stage] += spent

    def seconds(self) -> Mapping[str, float]:
        """Wall seconds by stage."""
        with self._lock:
            return dict(self._seconds)
