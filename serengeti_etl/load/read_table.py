"""The index of one or several datasets, read into flat arrays a few row groups at a time."""

import hashlib
from collections.abc import Iterator, Sequence
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
    readers = [_SplitReader(one, split, selection, classes) for one in datasets]
    tables = [reader.read(number) for number, reader in enumerate(readers)]
    # What Arrow read in between is much more than what is kept.
    pa.default_memory_pool().release_unused()
    taken = b"".join(reader.taken.digest() for reader in readers)
    images = tables[0] if len(tables) == 1 else _joined(tables)
    return ReadImages(images=images, taken=taken)


def common_classes(datasets: Sequence[Indexed]) -> tuple[str, ...]:
    """The classes of the first dataset, then those that only later ones have, sorted."""
    first = datasets[0].classes
    more = {name for dataset in datasets for name in dataset.classes} - set(first)
    return (*first, *sorted(more))


class _SplitReader:
    """Reads the rows of one split, and keeps those that a selection wants.

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
        self._classes, self._class_names = classes, pa.array(classes, type=pa.string())
        self._shards = dataset.shards(split)
        self._names = pa.array([shard.name for shard in self._shards], type=pa.string())
        self._ends_S = np.cumsum([shard.num_samples for shard in self._shards])
        num_rows = int(self._ends_S[-1])
        self._blocks_N = np.empty(num_rows, dtype=np.uint32)
        self._num_bytes_N = np.empty(num_rows, dtype=np.int32)
        self._sequences_N = np.empty(num_rows, dtype=np.int32)
        self._code_starts_N1 = np.zeros(num_rows + 1, dtype=np.int32)
        self._codes: list[NDArray[np.int16]] = []
        self._sizes_S = np.zeros(len(self._shards), dtype=np.int64)
        self._canvas = (0, 0)
        self._num_rows, self._num_kept, self._num_sequences = 0, 0, 0
        self._last: tuple[str, int] | None = None
        self.taken = hashlib.blake2b(digest_size=16)

    def read(self, number: int) -> ImageTable:
        """The images that are taken, in order; ``number`` is that of the dataset."""
        columns = _columns_for(self._selection)
        for table in self._dataset.index_tables(self._split, columns):
            self._add(table)
        self._check(self._num_rows == self._ends_S[-1])
        num_kept = self._num_kept
        return ImageTable(
            shards=tuple(Shard(store=self._dataset.store, info=info) for info in self._shards),
            shard_sizes_S=self._sizes_S,
            datasets_S=np.full(len(self._shards), number, dtype=np.int32),
            blocks_N=_trimmed(self._blocks_N, num_kept),
            num_bytes_N=_trimmed(self._num_bytes_N, num_kept),
            sequences_N=_trimmed(self._sequences_N, num_kept),
            codes_K=np.concatenate([np.empty(0, dtype=np.int16), *self._codes]),
            code_starts_N1=_trimmed(self._code_starts_N1, num_kept + 1),
            classes=self._classes,
            canvas=self._canvas,
        )

    def _add(self, table: pa.Table) -> None:
        # Rows of other splits, or of shards that dataset.json does not name yet, are passed over.
        numbers = _positions(table["shard"], self._names)
        known = numbers >= 0
        if not known.all():
            table, numbers = table.filter(pa.array(known)), numbers[known]
        rows_N = np.arange(self._num_rows, self._num_rows + len(numbers), dtype=np.int32)
        expected = np.searchsorted(self._ends_S, rows_N, side="right")
        self._check(np.array_equal(numbers, expected))
        sequences_N = self._numbered(table["seq_id"], numbers)
        self._num_rows += len(numbers)
        mask_N = self._is_taken(table, sequences_N)
        if not mask_N.all():
            table, rows_N = table.filter(pa.array(mask_N)), rows_N[mask_N]
            sequences_N, numbers = sequences_N[mask_N], numbers[mask_N]
        self.taken.update(rows_N.tobytes())
        self._sizes_S += np.bincount(numbers, minlength=len(self._sizes_S))
        self._keep(table, sequences_N)

    def _keep(self, table: pa.Table, sequences_N: NDArray[np.int32]) -> None:
        first, end = self._num_kept, self._num_kept + table.num_rows
        self._blocks_N[first:end] = self._blocks(table["offset"])
        self._num_bytes_N[first:end] = _numpy(table["num_bytes"])
        self._sequences_N[first:end] = sequences_N
        codes_K, num_codes_N = self._codes_of(table["labels"].combine_chunks())
        before = self._code_starts_N1[first]
        self._code_starts_N1[first + 1 : end + 1] = before + np.cumsum(num_codes_N)
        self._codes.append(codes_K)
        height, width = self._canvas
        self._canvas = (
            max(height, _largest(table["height"])),
            max(width, _largest(table["width"])),
        )
        self._num_kept = end

    def _check(self, agrees: bool) -> None:  # noqa: FBT001 - what is checked
        """Nothing, if the index lists the shards' samples in the order of dataset.json."""
        if not agrees:
            url = self._dataset.store.url
            raise DatasetError(
                f"the index and dataset.json of {url} disagree on which samples are in which "
                f"shard; run `serengeti-etl verify {url}`"
            )

    def _numbered(self, seq_ids: pa.ChunkedArray, shards_N: NDArray[np.int64]) -> Any:
        """Number of each row's sequence; one that goes on in another shard is another there."""
        if not len(shards_N):
            return np.empty(0, dtype=np.int32)
        encoded = _encoded(seq_ids)
        codes_N = encoded.indices.to_numpy()
        changed_N = (np.diff(codes_N) != 0) | (np.diff(shards_N) != 0)
        first, last = (encoded.dictionary[codes_N[at]].as_py() for at in (0, -1))
        goes_on = self._last == (first, int(shards_N[0]))
        starts_N = np.concatenate([[not goes_on], changed_N])
        sequences_N = (np.cumsum(starts_N) + self._num_sequences - 1).astype(np.int32)
        self._num_sequences = int(sequences_N[-1]) + 1
        self._last = (last, int(shards_N[-1]))
        return sequences_N

    def _is_taken(self, table: pa.Table, sequences_N: NDArray[np.int32]) -> NDArray[np.bool_]:
        mask_N = np.ones(table.num_rows, dtype=bool)
        if self._selection.where is not None:
            wanted = pa.schema([INDEX_SCHEMA.field(name) for name in table.column_names])
            rows = table.cast(wanted).append_column(_ROW, pa.array(np.arange(table.num_rows)))
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
        return generator.random_raw(int(self._ends_S[-1])).astype(np.float64) * 2.0**-64

    def _blocks(self, offsets: pa.ChunkedArray) -> NDArray[np.int64]:
        blocks_N, rest_N = np.divmod(_numpy(offsets), BLOCK_NUM_BYTES)
        if rest_N.any():
            url = self._dataset.store.url
            raise DatasetError(
                f"the index of {url} has an offset that no file of a tar can have; run "
                f"`serengeti-etl verify {url}`"
            )
        return blocks_N

    def _codes_of(self, labels: pa.Array) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """Positions in the classes of labels that are some, and how many each image has."""
        codes_K = _positions(labels.flatten(), self._class_names)
        counts_N = _numpy(pc.list_value_length(labels))
        is_class_K1 = np.concatenate([[0], np.cumsum(codes_K >= 0)])
        ends_N = np.cumsum(counts_N)
        num_codes_N = is_class_K1[ends_N] - is_class_K1[ends_N - counts_N]
        return codes_K[codes_K >= 0].astype(np.int16), num_codes_N


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


def _encoded(values: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # of dictionaries that differ
        values = values.unify_dictionaries().combine_chunks()
    is_encoded = pa.types.is_dictionary(values.type)
    return values if is_encoded else values.dictionary_encode()


def _positions(values: pa.ChunkedArray | pa.Array, names: pa.Array) -> NDArray[np.int64]:
    """Place of each value in ``names``, -1 for none; looked for once for each that occurs."""
    encoded = _encoded(values)
    places = _numpy(pc.index_in(encoded.dictionary, value_set=names).fill_null(-1))
    found: NDArray[np.int64] = places.astype(np.int64)[encoded.indices.to_numpy()]
    return found


def _trimmed(values: NDArray[Any], size: int) -> NDArray[Any]:
    return values if len(values) == size else values[:size].copy()


def _joined(tables: Sequence[ImageTable]) -> ImageTable:
    """One table of the images of several datasets."""

    def together(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(table, name) for table in tables])

    num_codes_N = np.concatenate([np.diff(table.code_starts_N1) for table in tables])
    return ImageTable(
        shards=tuple(shard for table in tables for shard in table.shards),
        shard_sizes_S=together("shard_sizes_S"),
        datasets_S=together("datasets_S"),
        blocks_N=together("blocks_N"),
        num_bytes_N=together("num_bytes_N"),
        sequences_N=_rising([table.sequences_N for table in tables]),
        codes_K=together("codes_K"),
        code_starts_N1=np.concatenate([[0], np.cumsum(num_codes_N)]).astype(np.int32),
        classes=tables[0].classes,
        canvas=(max(t.canvas[0] for t in tables), max(t.canvas[1] for t in tables)),
    )


def _rising(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The sequences of several datasets, so that no two have a number in common."""
    first, shifted = 0, []
    for numbers_N in sequences:
        shifted.append(numbers_N + first)
        first += int(numbers_N.max(initial=-1)) + 1
    return np.concatenate(shifted).astype(np.int32)
