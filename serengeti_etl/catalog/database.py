"""A scratch database on disk for joining and sorting label rows in bounded memory.

DuckDB, because it takes a limit of memory and keeps it: 1.4 GB for 7.2 M images and 7.3 M
annotations, where polars, pyarrow, pandas and dask.dataframe take 5 to 10
(``benchmarks/catalog.py``).
Rows come and go as Parquet files.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb

_MEMORY = "1200MB"
"""Beyond this DuckDB spills to the scratch folder."""

_SCRATCH_ERRORS = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,  # a full disk, where it is the log that could not be written
    duckdb.FatalException,  # anything after that
)


class Database:
    """A DuckDB database in ``scratch``; use it as a context.

    Args:
        scratch: local folder for the database and what does not fit in memory.

    Raises:
        OSError: the scratch folder is full, or cannot be written.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        with _scratch_errors(scratch):
            self._connection = duckdb.connect(scratch / "labels.duckdb")
        self.run(f"SET memory_limit = '{_MEMORY}'")
        self.run(f"SET temp_directory = {text(scratch / 'spill')}")
        # Order is asked for where it matters; keeping it elsewhere costs memory.
        self.run("SET preserve_insertion_order = false")
        self.run("SET autoinstall_known_extensions = false")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, sql: str) -> None:
        """Run one statement. Raises as ``rows``."""
        self.rows(sql)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query, for small answers.

        Raises:
            OSError: the scratch folder is full, or cannot be written or read.
        """
        with _scratch_errors(self._scratch):
            found: list[tuple[Any, ...]] = self._connection.execute(sql).fetchall()
        return found

    def value(self, sql: str) -> Any:
        """The one value of a query of one row and one column."""
        ((value,),) = self.rows(sql)
        return value

    def write(self, sql: str, path: Path) -> None:
        """Put the rows of a query into a Parquet file at ``path``."""
        self.run(f"COPY ({sql}) TO {text(path)} (FORMAT parquet, COMPRESSION zstd)")


@contextmanager
def _scratch_errors(scratch: Path) -> Iterator[None]:
    """DuckDB's faults of disk and memory as an ``OSError`` that says what to do."""
    try:
        yield
    except _SCRATCH_ERRORS as error:
        told = " ".join(str(error).split())[:300]
        raise OSError(
            f"label rows cannot be joined in {scratch} ({told}): set TMPDIR to a folder with as "
            "much room as the label file has"
        ) from error


def text(value: object) -> str:
    """``value`` as a string literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"
