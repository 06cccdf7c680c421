"""Frames of sequences that come side by side, held until the next sequence begins."""

from collections.abc import Sequence
from itertools import groupby

from serengeti_etl.predict.rows import PredictedImage

Frames = list[PredictedImage]


class Gathered:
    """Photographs in their order, given on by whole sequences."""

    def __init__(self) -> None:
        self._open: Frames = []

    def add(self, rows: Sequence[PredictedImage]) -> list[Frames]:
        """Take some photographs; the sequences that have ended."""
        groups = [list(group) for _, group in groupby([*self._open, *rows], lambda row: row.seq_id)]
        self._open = groups.pop() if groups else []
        return groups

    def rest(self) -> list[Frames]:
        """The last sequence, if there was one."""
        frames, self._open = self._open, []
        return [frames] if frames else []
