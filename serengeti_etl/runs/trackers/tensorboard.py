"""TensorBoard: event files in a local folder. Its own writer needs no torch and no TensorFlow."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serengeti_etl.runs.last_word import Ended
from serengeti_etl.runs.trackers.tracker import TrackedRun


class TensorBoardTracker:
    """Writes event files.

    Args:
        folder: local; to be given to ``tensorboard --logdir``.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def start(self, run: TrackedRun) -> None:
        """See ``Tracker``."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = Event, Summary
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventFileWriter(str(self._folder))
        # What an earlier process wrote of later steps, which are done again, is no longer shown.
        begun = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=run.step, session_log=begun))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        found = [
            self._summary.Value(tag=name, simple_value=value) for name, value in values.items()
        ]
        summary = self._summary(value=found)
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))

    def finish(self, ended: Ended) -> None:  # noqa: ARG002 - it keeps figures only
        """See ``Tracker``."""
        self._writer.close()
