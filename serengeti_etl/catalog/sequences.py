"""Sequences as runs of rows: a catalog is sorted by them, so no table of names is needed."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Mask = npt.NDArray[np.bool_]


def sequence_starts(seq_ids: pa.ChunkedArray) -> Mask:
    """True for the first image of each sequence; the column is sorted, or at least grouped."""
    starts = np.ones(len(seq_ids), dtype=np.bool_)
    starts[1:] = pc.not_equal(seq_ids.slice(1), seq_ids.slice(0, len(seq_ids) - 1)).to_numpy()
    return starts


def differs_within(column: pa.ChunkedArray, starts: Mask) -> Mask:
    """True for the images of sequences in which ``column`` has more than one value.

    Args:
        column: text, without nulls, in the order of the catalog.
        starts: as ``sequence_starts`` gives them.
    """
    at = np.flatnonzero(starts)
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    differs = np.minimum.reduceat(codes, at) != np.maximum.reduceat(codes, at)
    found: Mask = differs[np.cumsum(starts) - 1]
    return found


def num_runs(numbers: npt.NDArray[np.int32]) -> int:
    """How many different numbers there are, where equal ones stand together."""
    return int(np.count_nonzero(np.diff(numbers))) + (len(numbers) > 0)
