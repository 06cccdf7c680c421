"""The index of one or several datasets, read into flat arrays a few row groups at a time."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import INDEX_SCHEMA, ShardInfo
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.load.member import BLOCK_NUM_BYTES
from serengeti_etl.load.selection import Selection
from serengeti_etl.load.shard_source import Shard
from serengeti_etl.load.table import ImageTable
from serengeti_etl.storage import Store

_COLUMNS = ("seq_id", "labels", "shard", "offset", "num_bytes", "width", "height")


class Indexed(Protocol):
    """What the loader reads of a dataset, finished or still growing."""

    store: Store

    @property
    def classes(self) -> tuple[str, ...]:
        """Categories in the order of a model's outputs."""

    @property
    def plan_hash(self) -> str:
        """Fingerprint of the plan, hexadecimal."""

    def shards(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of ``split`` in order."""

    def index_tables(self, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of the index in shard order, some at a time; perhaps of other splits too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadImages:
    """The images of a split that are taken, and how a cursor names them.

    Attributes:
        images: those that are taken.
        taken: bytes that tell which ones they are among all of the split.
    """

    images: ImageTable
    taken: bytes


def read_images(datasets: Sequence[Indexed], split: str, selection: Selection) -> ReadImages:
    """The images of ``split`` in all of ``datasets`` that ``selection`` takes.

    Raises:
        ConfigError: ``where`` names a column that the index does not have.
        DatasetError: there is no such split, or an index disagrees with its dataset.json.
    """
    classes = common_classes(datasets)
    parts = [_SplitReader(one, split, selection, classes).read() for one in datasets]
    taken = hashlib.blake2b(digest_size=16)
    for rows in parts:
        taken.update(_together(rows, "kept_N").tobytes())
    return ReadImages(images=_joined(datasets, split, parts, classes), taken=taken.digest())


def common_classes(datasets: Sequence[Indexed]) -> tuple[str, ...]:
    """The classes of the first dataset, then those that only later ones have, sorted."""
    first = datasets[0].classes
    more = {name for dataset in datasets for name in dataset.classes} - set(first)
    return (*first, *sorted(more))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """Some images of one dataset; arrays as in ``ImageTable``.

    Attributes:
        kept_N: number of each image among all of the split.
        shards_N: number of its shard.
        sequences_N: number of its sequence among all of the split.
        blocks_N: as in ``ImageTable``.
        num_bytes_N: as in ``ImageTable``.
        codes_K: as in ``ImageTable``.
        num_codes_N: labels of each image that are classes.
        canvas: as in ``ImageTable``.
    """

    kept_N: NDArray[np.int32]
    shards_N: NDArray[np.int32]
    sequences_N: NDArray[np.int32]
    blocks_N: NDArray[np.uint32]
    num_bytes_N: NDArray[np.int32]
    codes_K: NDArray[np.int16]
    num_codes_N: NDArray[np.int32]
    canvas: tuple[int, int]


class _SplitReader:
    """Reads the rows of one split, and takes those that a selection wants.

    Args:
        dataset: to read the index of.
        split: such as ``train``.
        selection: which images are taken.
        classes: whose positions the codes are.
    """

    def __init__(
        self, dataset: Indexed, split: str, selection: Selection, classes: tuple[str, ...]
    ) -> None:
        self._dataset, self._split, self._selection = dataset, split, selection
        self._classes = pa.array(classes, type=pa.string())
        shards = dataset.shards(split)
        self._names = pa.array([shard.name for shard in shards], type=pa.string())
        sizes_S = np.array([shard.num_samples for shard in shards], dtype=np.int64)
        self._expected_N = np.repeat(np.arange(len(shards), dtype=np.int32), sizes_S)
        self._num_rows, self._num_sequences = 0, 0
        self._last: tuple[str, int] | None = None

    def read(self) -> list[_Rows]:
        """The rows that are taken, in order."""
        columns = _columns_for(self._selection)
        tables = self._dataset.index_tables(self._split, columns)
        found = [self._rows(table) for table in tables]
        self._check(np.empty(0, dtype=np.int32), self._expected_N[self._num_rows :])
        return found

    def _rows(self, table: pa.Table) -> _Rows:
        # Rows of other splits, or of shards that dataset.json does not name yet, are passed over.
        numbers = pc.index_in(table["shard"], value_set=self._names)
        known = pc.is_valid(numbers)
        table, shards_N = table.filter(known), _numpy(numbers.filter(known)).astype(np.int32)
        end = self._num_rows + len(shards_N)
        self._check(shards_N, self._expected_N[self._num_rows : end])
        kept_N = np.arange(self._num_rows, end, dtype=np.int32)
        sequences_N = self._sequences(table["seq_id"], shards_N)
        self._num_rows = end
        mask_N = self._is_taken(table, sequences_N)
        taken = table.filter(pa.array(mask_N))
        codes_K, num_codes_N = self._codes(taken["labels"].combine_chunks())
        return _Rows(
            kept_N=kept_N[mask_N],
            shards_N=shards_N[mask_N],
            sequences_N=sequences_N[mask_N],
            blocks_N=self._blocks(taken["offset"]),
            num_bytes_N=_numpy(taken["num_bytes"]).astype(np.int32),
            codes_K=codes_K,
            num_codes_N=num_codes_N,
            canvas=(_largest(taken["height"]), _largest(taken["width"])),
        )

    def _check(self, found_N: NDArray[np.int32], wanted_N: NDArray[np.int32]) -> None:
        """Nothing, if the index lists the shards' samples in the order of dataset.json."""
        if not np.array_equal(found_N, wanted_N):
            url = self._dataset.store.url
            raise DatasetError(
                f"the index and dataset.json of {url} disagree on which samples are in which "
                f"shard; run `serengeti-etl verify {url}`"
            )

    def _sequences(self, seq_ids: pa.ChunkedArray, shards_N: NDArray[np.int32]) -> Any:
        """Number of each row's sequence; one that goes on in another shard is another there."""
        if not len(shards_N):
            return np.empty(0, dtype=np.int32)
        ids = seq_ids.combine_chunks()
        changed_N = _numpy(pc.not_equal(ids[1:], ids[:-1])) | (np.diff(shards_N) != 0)
        goes_on = self._last == (ids[0].as_py(), int(shards_N[0]))
        starts_N = np.concatenate([[not goes_on], changed_N])
        sequences_N = (np.cumsum(starts_N) + self._num_sequences - 1).astype(np.int32)
        self._num_sequences = int(sequences_N[-1]) + 1
        self._last = (ids[-1].as_py(), int(shards_N[-1]))
        return sequences_N

    def _is_taken(self, table: pa.Table, sequences_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        mask_N = np.ones(table.num_rows, dtype=bool)
        if self._selection.where is not None:
            rows = table.append_column(_ROW, pa.array(np.arange(table.num_rows)))
            mask_N[:] = False
            mask_N[_numpy(_filtered(rows, self._selection.where)[_ROW])] = True
        if self._selection.fraction < 1:
            mask_N &= self._draws[sequences_N] < self._selection.fraction
        return mask_N

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """A number in [0, 1) for each sequence of the split, and some more."""
        key = f"{self._dataset.plan_hash}\n{self._split}\nfraction"
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        generator = np.random.Philox(key=np.frombuffer(digest, dtype="<u8"))
        return generator.random_raw(len(self._expected_N)).astype(np.float64) * 2.0**-64

    def _blocks(self, offsets: pa.ChunkedArray) -> NDArray[np.uint32]:
        blocks_N, rest_N = np.divmod(_numpy(offsets), BLOCK_NUM_BYTES)
        if rest_N.any():
            url = self._dataset.store.url
            raise DatasetError(
                f"the index of {url} has an offset that no file of a tar can have; run "
                f"`serengeti-etl verify {url}`"
            )
        return blocks_N.astype(np.uint32)

    def _codes(self, labels: pa.Array) -> tuple[NDArray[np.int16], NDArray[np.int32]]:
        """Positions in the classes of labels that are some, and how many each image has."""
        codes_K = _numpy(pc.index_in(labels.flatten(), value_set=self._classes).fill_null(-1))
        counts_N = _numpy(pc.list_value_length(labels))
        is_class_K1 = np.concatenate([[0], np.cumsum(codes_K >= 0)])
        ends_N = np.cumsum(counts_N)
        num_codes_N = is_class_K1[ends_N] - is_class_K1[ends_N - counts_N]
        return codes_K[codes_K >= 0].astype(np.int16), num_codes_N.astype(np.int32)


_ROW = "row number"


def _columns_for(selection: Selection) -> tuple[str, ...]:
    if selection.where is None:
        return _COLUMNS
    return tuple(name for name in INDEX_SCHEMA.names if name != "sha256")


def _filtered(rows: pa.Table, where: pc.Expression) -> pa.Table:
    try:
        return rows.filter(where)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        columns = ", ".join(name for name in rows.column_names if name != _ROW)
        raise ConfigError(
            f"where is {where}, which cannot be asked of the index: {str(error).splitlines()[0]}; "
            f"its columns are {columns}"
        ) from error


def _numpy(values: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _largest(values: pa.ChunkedArray) -> int:
    return pc.max(values).as_py() or 0


def _joined(
    datasets: Sequence[Indexed],
    split: str,
    parts: Sequence[Sequence[_Rows]],
    classes: tuple[str, ...],
) -> ImageTable:
    """One table of the rows of all datasets."""
    shards = [[Shard(store=d.store, info=info) for info in d.shards(split)] for d in datasets]
    counts_DS = [
        np.bincount(_together(rows, "shards_N"), minlength=len(mine))
        for rows, mine in zip(parts, shards, strict=True)
    ]
    everything = [row for rows in parts for row in rows]
    ends_N = np.cumsum(_together(everything, "num_codes_N"), dtype=np.int64)
    canvases = [row.canvas for row in everything]
    return ImageTable(
        shards=tuple(shard for mine in shards for shard in mine),
        shard_sizes_S=np.concatenate(counts_DS).astype(np.int64),
        datasets_S=np.repeat(np.arange(len(datasets)), [len(s) for s in shards]).astype(np.int32),
        blocks_N=_together(everything, "blocks_N"),
        num_bytes_N=_together(everything, "num_bytes_N"),
        sequences_N=_rising([_together(rows, "sequences_N") for rows in parts]),
        codes_K=_together(everything, "codes_K"),
        code_starts_N1=np.concatenate([[0], ends_N]),
        classes=classes,
        canvas=(max(c[0] for c in canvases), max(c[1] for c in canvases)),
    )


def _together(rows: Iterable[_Rows], name: str) -> NDArray[Any]:
    return np.concatenate([getattr(one, name) for one in rows])


def _rising(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The sequences of several datasets, so that no two have a number in common."""
    first, shifted = 0, []
    for numbers_N in sequences:
        shifted.append(numbers_N + first)
        first += int(numbers_N.max(initial=-1)) + 1
    return np.concatenate(shifted).astype(np.int32)
