"""Predictions as CSV and Parquet, part by part."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from serengeti_etl.storage import AppendedFile, Store

ROWS_PER_GROUP = 16_384
"""Of Parquet at least: what is kept of each group until the end is more than a row."""

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
    waiting = schema.empty_table()
    with (
        store.create(name) as append,
        AppendedFile(append) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):

        def append_table(table: pa.Table) -> None:
            nonlocal waiting
            waiting = pa.concat_tables([waiting, table])
            if waiting.num_rows >= ROWS_PER_GROUP:
                writer.write_table(waiting)
                waiting = schema.empty_table()

        yield append_table
        if waiting.num_rows:
            writer.write_table(waiting)


TABLES = {"csv": csv_output, "parquet": parquet_output}
"""By format."""
