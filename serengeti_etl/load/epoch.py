"""Which images stand at each place of one epoch's order."""

from functools import cached_property

import numpy as np

from serengeti_etl.load.augment import uniform_bits
from serengeti_etl.load.order import Cursor, EpochOrder, Groups, Window, check_size, random_bits
from serengeti_etl.load.table import Int64, SampleTable

_FRAME_DRAWS = 0x5EED
"""Added to the seed, so that the choice of a frame tells nothing of crops."""


class Epoch:
    """One pass over the samples.

    Args:
        table: the samples.
        cursor: names the order.
        keep_sequences: images of a sequence follow each other, where images are samples; otherwise
            they keep apart.
        vary: of a sequence that one frame shows, another in each epoch; else the first.
    """

    def __init__(
        self, table: SampleTable, cursor: Cursor, *, keep_sequences: bool = False, vary: bool = True
    ) -> None:
        check_size(len(table), cursor.split)
        self._table, self._cursor, self._vary = table, cursor, vary
        groups = None
        if table.selection.frames == "all" and cursor.window:
            starts_G = self._drawn(table.sequence_starts)
            groups = Groups(starts_G=starts_G, stay_together=keep_sequences)
        self._order = EpochOrder(self._shard_sizes(), cursor, groups)

    @property
    def num_samples(self) -> int:
        """Places of the order."""
        return self._order.num_samples

    def windows(self, lanes: tuple[int, ...], start: int) -> list[Window]:
        """The windows of some lanes in order of need; see ``EpochOrder.windows``."""
        return self._order.windows(lanes, start)

    def images(self, positions_B: Int64) -> Int64:
        """The images of the samples at these places, (B, num_frames), -1 for none."""
        samples_B = self._order.samples(positions_B)
        if self._draw_ends is not None:
            samples_B = np.searchsorted(self._draw_ends, samples_B, side="right").astype(np.int64)
        return self._table.frames(samples_B, self._chosen(positions_B))

    def _chosen(self, positions_B: Int64) -> Int64:
        if self._table.selection.frames != "one" or not self._vary:
            return np.zeros(len(positions_B), dtype=np.int64)
        key = (self._cursor.seed + _FRAME_DRAWS, self._cursor.epoch)
        return (uniform_bits(key, positions_B, 1)[:, 0] * 2**32).astype(np.int64)

    @cached_property
    def _draw_ends(self) -> Int64 | None:
        """Of weighted samples, how many draws there are up to and with each; None of others.

        Systematic sampling: each sample comes as often as its weight says, rounded up or down, and
        the epoch has as many samples as ever. Madow, Ann. Math. Stat. 20 (1949) 333.
        """
        if not self._table.selection.is_weighted:
            return None
        offset = float(random_bits(self._cursor, "weights", 1)[0]) * 2.0**-64
        ends_M = np.floor(np.cumsum(self._table.weights()) + offset).astype(np.int64)
        # The sum may be a hair beside the number of samples.
        ends_M[-1:] = len(self._table)
        return np.minimum(ends_M, len(self._table))

    def _drawn(self, samples: Int64) -> Int64:
        """First draw of each of these samples."""
        if self._draw_ends is None:
            return samples
        return np.concatenate([[0], self._draw_ends])[samples].astype(np.int64)

    def _shard_sizes(self) -> Int64:
        sizes_S = self._table.shard_sizes
        ends_S = self._drawn(np.cumsum(sizes_S))
        return np.diff(ends_S, prepend=0).astype(np.int64)
