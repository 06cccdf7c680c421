"""What a conversion says to its board."""

import time
from collections.abc import Mapping

from serengeti_etl.convert.season import Conversion
from serengeti_etl.convert.tally import Progress
from serengeti_etl.runs.board import Board

FOLDER = "run"
"""Below the output: what a conversion says of itself while it works. No part of the dataset."""

_RECORD_SECONDS = 5.0


class BoardTeller:
    """Hands the progress of ``convert.season.convert_season`` on to a board.

    Args:
        board: of the output's folder ``run``; opened once nobody else writes to the output.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._num_images = self._num_rejected = self._num_bytes = 0
        self._num_known = 0
        self._recorded_at = time.monotonic()
        self._recorded = (0, 0)

    def held(self) -> None:
        """To be given as ``on_held``."""
        self._board.open()
        self._board.pause("planning")
        self._board.event("start", "started")

    def tell(self, progress: Progress) -> None:
        """To be given as ``on_progress``, or called by what is."""
        self._num_images += progress.num_images
        self._num_rejected += progress.num_rejected
        self._num_bytes += progress.num_source_bytes
        if not progress.is_new:
            self._num_known = self._num_images
            self._board.start_from(self._num_images, num_steps=progress.num_planned)
            self._recorded, self._recorded_at = (self._num_images, 0), time.monotonic()
            if self._num_images == progress.num_planned:
                self._board.pause("finishing")
            return
        if self._num_known:
            said = f"{self._num_known:,} of {progress.num_planned:,} images were there already"
            self._board.event("resume", said)
            self._num_known = 0
        counts = f"{progress.num_images:,} images, {progress.num_rejected:,} rejected"
        self._board.log(f"{progress.name}: {counts}")
        is_last = self._num_images == progress.num_planned
        stage = "finishing" if is_last else "shards"
        self._board.progress(self._num_images, stage=stage, num_steps=progress.num_planned)
        self._record(is_last=is_last)

    def made(self, conversions: Mapping[str, Conversion]) -> None:
        """What came of it, by the url of each dataset."""
        for url, one in conversions.items():
            ledger, num_shards = one.ledger, len(one.index.shards)
            said = f"{url}: {num_shards:,} shards, {ledger.num_rejected:,} images rejected"
            self._board.event("made", said, "warning" if ledger.num_rejected else "info")

    def _record(self, *, is_last: bool) -> None:
        now = time.monotonic()
        seconds = now - self._recorded_at
        if seconds < _RECORD_SECONDS and not is_last:
            return
        num_images, num_bytes = self._recorded
        self._recorded, self._recorded_at = (self._num_images, self._num_bytes), now
        self._board.record(
            {
                "images_per_second": round((self._num_images - num_images) / seconds, 2),
                "mb_per_second": round((self._num_bytes - num_bytes) / 1e6 / seconds, 2),
                "rejected": self._num_rejected,
            }
        )
