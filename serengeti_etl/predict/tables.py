"""Predictions as CSV and Parquet, part by part."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from serengeti_etl.storage import AppendedFile, Store

_PLAIN = pacsv.WriteOptions(quoting_style="needed")

Append = Callable[[pa.Table], object]


@contextmanager
def csv_output(store: Store, name: str, schema: pa.Schema) -> Iterator[Append]:
    """A function that appends a table to the CSV ``name``, which is there after the block.

    Raises:
        OSError: the store failed; nothing is visible under ``name``.
    """
    with (
        store.create(name) as append,
        AppendedFile(append) as file,
        pacsv.CSVWriter(file, schema, write_options=_PLAIN) as writer,
    ):
        yield writer.write_table


@contextmanager
def parquet_output(store: Store, name: str, schema: pa.Schema) -> Iterator[Append]:
    """As ``csv_output``, of Parquet."""
    with (
        store.create(name) as append,
        AppendedFile(append) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        yield writer.write_table


TABLES = {"csv": csv_output, "parquet": parquet_output}
"""By format."""
