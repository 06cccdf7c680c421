"""Counters of a source that many threads add to."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from serengeti_etl.load.shard_source import SourceStats


class SourceTally:
    """The ``SourceStats`` of now; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stats = SourceStats()

    def stats(self) -> SourceStats:
        """All that was added so far."""
        return self._stats

    def add(self, **amounts: float) -> None:
        """Add to the counters of these names."""
        with self._lock:
            sums = {name: getattr(self._stats, name) + value for name, value in amounts.items()}
            self._stats = dataclasses.replace(self._stats, **sums)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the counter ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(**{name: time.perf_counter() - start})
