"""The compacted index."""

from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq

from serengeti_etl.dataset import index
from serengeti_etl.dataset.index import UNREADABLE, compact_index, read_table
from tests.dataset_factory import Recipe, make_dataset


def test_the_compacted_index_has_few_large_row_groups(tmp_path: Path) -> None:
    """Its rows are those of the parts in order, in row groups of the set size but for the last."""
    dataset = make_dataset(str(tmp_path), Recipe(sizes={"train": (40, 0, 33, 50)}))
    names = [shard.name for shard in dataset.info.shards]
    parts = [read_table(dataset.store, f"index/{name}.parquet") for name in names]
    with patch.object(index, "ROWS_PER_GROUP", 25):
        compact_index(dataset.store, dataset.info.shards)
    file = pq.ParquetFile(tmp_path / "index.parquet")
    groups = [file.metadata.row_group(at).num_rows for at in range(file.metadata.num_row_groups)]
    assert groups == [25, 25, 25, 25, 23]
    assert file.read().to_pylist() == [row for part in parts for row in part.to_pylist()]


def test_a_flipped_byte_of_the_index_is_never_read_as_another_value(tmp_path: Path) -> None:
    """Pages carry checksums: a flip anywhere in the columns is an error, not another label."""
    dataset = make_dataset(str(tmp_path))
    path = tmp_path / "index.parquet"
    whole = path.read_bytes()
    rows = dataset.index()
    column = pq.ParquetFile(path).metadata.row_group(0).column(7)
    start = column.data_page_offset
    for at in range(start + 40, start + column.total_compressed_size - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        try:
            found = dataset.index()
        except UNREADABLE:
            continue
        assert found.equals(rows)
