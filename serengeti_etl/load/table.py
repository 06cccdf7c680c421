"""What the loader keeps in memory of a split's index: a few flat arrays, no object per sample."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import DatasetError

Int16 = NDArray[np.int16]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

_COLUMNS = ("image_id", "seq_id", "labels", "shard", "offset", "num_bytes")


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleTable:
    """The samples of one split in the order of the dataset.

    Attributes:
        image_ids: Arrow strings, one per sample.
        seq_ids: Arrow strings, one per sample.
        shard_sizes_S: samples of each shard.
        shards_N: number of each sample's shard.
        offsets_N: place of each JPEG in its tar, in bytes.
        num_bytes_N: size of each JPEG in bytes.
        codes_K: positions in ``classes`` of all labels of all samples, one after the other;
            categories that are no class are left out.
        code_starts_N1: where each sample's codes start in ``codes_K``, and the end.
        num_classes: length of ``classes``.
    """

    image_ids: pa.Array
    seq_ids: pa.Array
    shard_sizes_S: Int64
    shards_N: Int32
    offsets_N: Int64
    num_bytes_N: Int32
    codes_K: Int16
    code_starts_N1: Int64
    num_classes: int

    def __len__(self) -> int:
        return len(self.shards_N)

    def targets(self, rows_B: NDArray[Any]) -> Float32:
        """Multi-hot targets of the rows, (B, num_classes)."""
        targets_BC = np.zeros((len(rows_B), self.num_classes), dtype=np.float32)
        for place, row in enumerate(rows_B):
            targets_BC[
                place, self.codes_K[self.code_starts_N1[row] : self.code_starts_N1[row + 1]]
            ] = 1
        return targets_BC

    def class_counts(self) -> Int64:
        """Samples that show each class, (num_classes,)."""
        return np.bincount(self.codes_K, minlength=self.num_classes).astype(np.int64)

    def sequence_counts(self) -> tuple[Int64, int]:
        """Sequences that show each class in any frame, (num_classes,), and sequences in all."""
        encoded = self.seq_ids.dictionary_encode()
        sequences_N = encoded.indices.to_numpy().astype(np.int64)
        sequences_K = np.repeat(sequences_N, np.diff(self.code_starts_N1))
        pairs = np.unique(sequences_K * self.num_classes + self.codes_K)
        counts = np.bincount(pairs % self.num_classes, minlength=self.num_classes)
        return counts.astype(np.int64), len(encoded.dictionary)


def read_samples(dataset: Dataset, split: str) -> SampleTable:
    """The samples of ``split``.

    Raises:
        DatasetError: there is no such split, or the index disagrees with dataset.json.
    """
    shards = dataset.shards(split)
    sizes_S = np.array([shard.num_samples for shard in shards], dtype=np.int64)
    rows = dataset.index(split, columns=_COLUMNS).combine_chunks()
    shards_N = np.repeat(np.arange(len(shards), dtype=np.int32), sizes_S)
    _check_shards(dataset, rows, [shard.name for shard in shards], shards_N)
    codes_K, code_starts_N1 = _codes(_array(rows, "labels"), dataset.classes)
    return SampleTable(
        image_ids=_array(rows, "image_id"),
        seq_ids=_array(rows, "seq_id"),
        shard_sizes_S=sizes_S,
        shards_N=shards_N,
        offsets_N=_array(rows, "offset").to_numpy(),
        num_bytes_N=_array(rows, "num_bytes").to_numpy().astype(np.int32),
        codes_K=codes_K,
        code_starts_N1=code_starts_N1,
        num_classes=len(dataset.classes),
    )


def _array(rows: pa.Table, name: str) -> pa.Array:
    column = rows[name]
    return column.chunk(0) if column.num_chunks else pa.array([], type=column.type)


def _check_shards(dataset: Dataset, rows: pa.Table, names: list[str], shards_N: Int32) -> None:
    """Nothing, if the index lists the shards' samples in the order of dataset.json."""
    codes = pc.index_in(_array(rows, "shard"), value_set=pa.array(names, type=pa.string()))
    listed_N = codes.fill_null(-1).to_numpy()
    if not np.array_equal(listed_N, shards_N):
        raise DatasetError(
            f"the index and dataset.json of {dataset.store.url} disagree on which samples are in "
            f"which shard; run `serengeti-etl verify {dataset.store.url}`"
        )


def _codes(labels: pa.Array, classes: tuple[str, ...]) -> tuple[Int16, Int64]:
    """Positions in ``classes`` of all labels, without those in no class, and where each starts."""
    all_codes = pc.index_in(labels.flatten(), value_set=pa.array(classes, type=pa.string()))
    codes_K = all_codes.fill_null(-1).to_numpy().astype(np.int16)
    is_class_K1 = np.concatenate([[0], np.cumsum(codes_K >= 0)])
    ends_N = np.cumsum(pc.list_value_length(labels).to_numpy(zero_copy_only=False))
    starts_N1 = np.concatenate([[0], ends_N]).astype(np.int64)
    return codes_K[codes_K >= 0], is_class_K1[starts_N1].astype(np.int64)
