"""Which photographs stand for a category, a site or a reason: the same ones every time.

Each photograph has a number by its id; of each group those with the lowest are taken, one of each
sequence. So no order of the index, and no photograph that came later, chooses others on a whim.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import tar_name

UInt64 = NDArray[np.uint64]

COLUMNS = (
    *("image_id", "seq_id", "frame_num", "site", "season", "datetime", "labels"),
    *("split", "shard", "offset", "num_bytes"),
)
"""Of the index: what is kept of a photograph that was chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """One sample of a dataset.

    Attributes:
        image_id: its key.
        seq_id: its sequence.
        frame_num: its place there.
        site: where the camera stood.
        season: of the survey.
        moment: when, by the camera's clock; None if unknown.
        labels: what it shows.
        tar: name of its shard's tar.
        offset: of its JPEG there, in bytes.
        num_bytes: of its JPEG.
    """

    image_id: str
    seq_id: str
    frame_num: int
    site: str
    season: str
    moment: datetime | None
    labels: tuple[str, ...]
    tar: str
    offset: int
    num_bytes: int


def numbers_of(names: pa.Array | pa.ChunkedArray) -> UInt64:
    """A number for each name that looks drawn by chance, and is the same everywhere."""
    values = np.array(names.cast(pa.string()).to_pylist(), dtype=np.object_)
    return np.asarray(pd.util.hash_array(values, categorize=False), dtype=np.uint64)


def photographs(table: pa.Table) -> list[Photograph]:
    """Rows of the index as photographs."""
    return [_photograph(row) for row in table.select(COLUMNS).to_pylist()]


def _photograph(row: dict[str, Any]) -> Photograph:
    return Photograph(
        image_id=row["image_id"],
        seq_id=row["seq_id"],
        frame_num=row["frame_num"],
        site=row["site"],
        season=row["season"],
        moment=row["datetime"],
        labels=tuple(row["labels"]),
        tar=tar_name(row["split"], row["shard"]),
        offset=row["offset"],
        num_bytes=row["num_bytes"],
    )


class Samples:
    """The photographs with the lowest numbers of each group, of tables that come one by one.

    Args:
        num_each: photographs of a group, at most.
    """

    def __init__(self, num_each: int) -> None:
        self._num_each = num_each
        self._kept: dict[str, list[tuple[int, Photograph]]] = {}

    def add(self, table: pa.Table, groups: pa.Array, rows_M: NDArray[np.int64]) -> None:
        """Look at the rows of a table, each of which may be in several groups.

        Args:
            table: rows of the index with ``COLUMNS``.
            groups: names, one for each of ``rows_M``.
            rows_M: row of each.
        """
        numbers_N = numbers_of(table["image_id"])
        codes = groups.dictionary_encode()
        frame = pd.DataFrame({
            "group": codes.indices.to_numpy(),
            "number": numbers_N[rows_M],
            "row": rows_M,
        })  # fmt: skip
        limits_G = np.array([self._limit(name) for name in codes.dictionary.to_pylist()])
        frame = frame[frame["number"].to_numpy() < limits_G[frame["group"].to_numpy()]]
        if frame.empty:
            return
        sequences = table["seq_id"].cast(pa.string()).take(pa.array(frame["row"].to_numpy()))
        frame["sequence"] = sequences.to_pylist()
        frame = frame.sort_values("number").drop_duplicates(["group", "sequence"])
        frame = frame.groupby("group", sort=False).head(self._num_each)
        self._keep(table, codes.dictionary.to_pylist(), frame)

    def _limit(self, group: str) -> int:
        """Numbers from here on are too high."""
        kept = self._kept.get(group, [])
        is_full = len(kept) == self._num_each
        return kept[-1][0] if is_full else int(np.iinfo(np.uint64).max)

    def _keep(self, table: pa.Table, names: Sequence[str], frame: pd.DataFrame) -> None:
        found = photographs(table.take(pa.array(frame["row"].to_numpy())))
        numbers, groups = frame["number"].tolist(), frame["group"].tolist()
        for group, number, photograph in zip(groups, numbers, found, strict=True):
            kept = self._kept.setdefault(names[group], [])
            same = [one for one in kept if one[1].seq_id == photograph.seq_id]
            if not same or number < same[0][0]:
                kept[:] = [one for one in kept if one not in same]
                kept.append((number, photograph))
        for group in set(groups):
            kept = self._kept[names[group]]
            kept.sort(key=lambda one: (one[0], one[1].image_id))
            del kept[self._num_each :]

    def of(self, group: str) -> tuple[Photograph, ...]:
        """The chosen ones of a group, by number."""
        return tuple(photograph for _, photograph in self._kept.get(group, ()))


def lowest(table: pa.Table, num: int) -> list[dict[str, Any]]:
    """The rows of a table whose ``image_id`` have the lowest numbers."""
    order = np.argsort(numbers_of(table["image_id"]), kind="stable")[:num]
    rows: list[dict[str, Any]] = table.take(pa.array(order)).to_pylist()
    return rows


def flat_labels(labels: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """Every label of a column of lists, and the row that it is of."""
    values = labels.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    rows = pc.list_parent_indices(values).to_numpy().astype(np.int64)
    return pc.list_flatten(values).cast(pa.string()), rows
