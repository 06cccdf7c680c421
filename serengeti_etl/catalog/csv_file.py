"""A CSV of labels read in parts, as text, with errors that name file, row and column."""

import csv
import io
from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from serengeti_etl.catalog.label_file import open_label_file
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

_BLOCK_NUM_BYTES = 8 << 20
_MAX_HEADER_NUM_BYTES = 1 << 16
_DELIMITERS = (",", ";", "\t")


def read_header(source: Store, name: str) -> list[str]:
    """The column names of the CSV ``name``.

    Raises:
        CatalogError: there is no such file, it is empty, or it is not UTF-8 text.
    """
    return _header(source, name)[0]


def iter_csv(
    source: Store, name: str, types: dict[str, pa.DataType], *, rest: pa.DataType | None = None
) -> Iterator[pa.Table]:
    """The columns of ``types`` of the CSV ``name``, part by part.

    Args:
        source: where it lies.
        name: its name there, or a full url.
        types: columns that must be there, with their types.
        rest: type of all other columns; None leaves them out.

    Raises:
        CatalogError: as ``read_header``; a column is missing; a row is cut; a value is of another
            type.
    """
    header, delimiter = _header(source, name)
    _require_columns(header, list(types), name)
    wanted = types | {one: rest for one in header if rest is not None and one not in types}
    try:
        with open_label_file(source, name) as file:
            yield from _parts(file, wanted, delimiter)
    except pa.ArrowInvalid as error:
        raise CatalogError(f"{name}: {_one_line(error)}; mend that row, or fetch again") from error


def read_csv(source: Store, name: str, columns: Sequence[str]) -> pd.DataFrame:
    """The named columns of a CSV as text, whole; the index is the row, where the header is row 1.

    Raises:
        CatalogError: as ``iter_csv``; or there are no rows.
    """
    parts = list(iter_csv(source, name, dict.fromkeys(columns, pa.string())))
    if not parts:
        raise CatalogError(f"{name} has a header and no rows: the label file lists no images")
    frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    frame.index += 2
    return frame


def _require_columns(header: Sequence[str], columns: Sequence[str], name: str) -> None:
    """Nothing, if all ``columns`` are there.

    Raises:
        CatalogError: otherwise; names the first that is missing, and those that are there.
    """
    missing = [column for column in columns if column not in header]
    if missing:
        raise CatalogError(
            f"{name} has no column {missing[0]!r}, only {list(header)[:12]}: name its columns with "
            "CsvColumns, set what it lacks to None, or give the right file"
        )


def _header(source: Store, name: str) -> tuple[list[str], str]:
    """Column names and the delimiter, the one of comma, semicolon and tab that cuts most."""
    with open_label_file(source, name) as file:
        head = file.read(_MAX_HEADER_NUM_BYTES)
    line = head.decode("utf-8-sig", errors="replace").lstrip("\r\n")
    if not line:
        raise CatalogError(f"{name} is empty: give a CSV with a header line")
    found = {mark: next(csv.reader(io.StringIO(line), delimiter=mark)) for mark in _DELIMITERS}
    delimiter = max(_DELIMITERS, key=lambda mark: len(found[mark]))
    return found[delimiter], delimiter


def _parts(file: object, types: dict[str, pa.DataType], delimiter: str) -> Iterator[pa.Table]:
    reader = pacsv.open_csv(
        file,
        read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_NUM_BYTES),
        parse_options=pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            column_types=types, include_columns=list(types), strings_can_be_null=False
        ),
    )
    with reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
