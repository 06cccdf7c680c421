"""What a tracker of experiments is asked to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from serengeti_etl.runs.last_word import Ended


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackedRun:
    """What a tracker is told at the start.

    Attributes:
        run_id: of the run; stays when it is continued.
        name: of the run, for people.
        step: that it begins or goes on from.
        config: its settings by dotted name.
    """

    run_id: str
    name: str
    step: int
    config: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


class Tracker(Protocol):
    """Keeps the figures of a run. It may raise anything, be slow and hang: see ``tracked``."""

    def start(self, run: TrackedRun) -> None:
        """Begin, or go on with, the run of that id."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures by name, such as ``train/loss``."""

    def finish(self, ended: Ended) -> None:
        """Put away what is still held."""
