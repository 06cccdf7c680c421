"""Which photographs to predict: those of a folder, of a bucket prefix or of a list."""

import datetime as dt
import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.csv_file import iter_csv, read_header
from serengeti_etl.catalog.flat_csv import COMMON_NAMES
from serengeti_etl.convert.fetch import Wanted
from serengeti_etl.dataset.index import UNREADABLE, read_table
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.lease import is_lease
from serengeti_etl.storage import Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".gif")
"""Of what is taken for a photograph in a folder, in lower case."""

LIST_SUFFIXES = (".txt", ".csv", ".parquet")

LIST_SCHEMA = pa.schema(
    [
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("seq_id", pa.string()),
        pa.field("site", pa.string()),
        pa.field("datetime", pa.timestamp("ms")),
    ]
)

_ROWS_AT_ONCE = 1024  # of Python, which take ten times the memory

_FOLDER = r"/?[^/]*$"
"""All of a name that is not its folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """One photograph to predict.

    Attributes:
        file_name: below its store.
        seq_id: sequence that a list names; None if none does.
        site: that a list names, else its folder; "" at the top.
        time: that a list gives; None if none does.
    """

    file_name: str
    seq_id: str | None
    site: str
    time: dt.datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Photographs:
    """Photographs in the order in which they are predicted: frames of a sequence side by side.

    Held as columns: about 100 bytes each, which is all that grows with their number.

    Attributes:
        store: where they lie.
        rows: of ``LIST_SCHEMA``.
        num_ignored: files of a folder that are no photographs by their name.
    """

    store: Store
    rows: pa.Table
    num_ignored: int = 0

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def __iter__(self) -> Iterator[Photograph]:
        for batch in self.rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                site = row["site"] or posixpath.dirname(row["file_name"])
                yield Photograph(
                    file_name=row["file_name"],
                    seq_id=row["seq_id"],
                    site=site,
                    time=row["datetime"],
                )

    def after(self, number: int) -> "Photographs":
        """Those that follow the first ``number``."""
        return replace(self, rows=self.rows.slice(number).combine_chunks())

    def digest(self) -> str:
        """A checksum of their names, sequences, sites and times, in order."""
        sha256 = hashlib.sha256(f"{self.store.url}\n".encode())
        for batch in self.rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                sha256.update(f"{tuple(row.values())}\n".encode())
        return sha256.hexdigest()

    @property
    def wanted(self) -> Sequence[Wanted]:
        """For ``convert.fetch``; each is made when it is asked for."""
        return _Wanted(self.rows["file_name"].combine_chunks())


class _Wanted(Sequence[Wanted]):
    def __init__(self, names: pa.Array) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, at: int) -> Wanted: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Wanted]: ...
    def __getitem__(self, at: int | slice) -> Wanted | Sequence[Wanted]:
        if isinstance(at, slice):
            return _Wanted(self._names[at])
        if at >= len(self):
            raise IndexError(at)
        return Wanted(file_name=self._names[at].as_py())


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where photographs to predict are named.

    Attributes:
        url: a folder or bucket prefix, whose photographs are taken with those below it; one
            photograph; or a list: ``.txt`` with a name per line, ``.csv`` with a header, of which
            the columns file, sequence, site and time are found by their usual names, or
            ``.parquet`` with those of ``catalog.parquet``.
        folder: what the names in a list are relative to; None is the list's own folder.
        options: how to open either, as of ``Store``.
    """

    url: str
    folder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def find(self) -> Photographs:
        """The photographs.

        Raises:
            ConfigError: there are none.
            CatalogError: the list cannot be read.
        """
        name = self.url.lower()
        found = self._listed() if name.endswith(LIST_SUFFIXES) else self._below()
        if not len(found):
            raise ConfigError(
                f"no photographs at {self.url}: give a folder or bucket prefix that holds some "
                f"({', '.join(SUFFIXES)}), one photograph, or a list ({', '.join(LIST_SUFFIXES)})"
            )
        return found

    def _below(self) -> Photographs:
        if self.url.lower().endswith(SUFFIXES):
            store, name = self._split()
            return Photographs(store=store, rows=_named([name]))
        store = Store(url=self.url, options=self.options)
        names = [name for name in store.find("") if not is_lease(name)]
        kept = [name for name in names if _is_photograph(name)]
        rows = _in_order(_named(kept))
        return Photographs(store=store, rows=rows, num_ignored=len(names) - len(kept))

    def _listed(self) -> Photographs:
        store, name = self._split()
        images = store if self.folder is None else Store(url=self.folder, options=self.options)
        read = {".txt": _read_text, ".csv": _read_csv}.get(name[-4:].lower(), _read_parquet)
        rows = read(store, name)
        rows = rows.filter(pc.not_equal(rows["file_name"], ""))
        return Photographs(store=images, rows=_in_order(rows))

    def _split(self) -> tuple[Store, str]:
        """The folder that a file lies in, and its name there."""
        folder, _, name = self.url.rpartition("/")
        url = folder or ("/" if self.url.startswith("/") else ".")
        return Store(url=url, options=self.options), name


def _is_photograph(name: str) -> bool:
    # "._IMG_0001.JPG" is what a Mac leaves beside a photograph, "@eaDir" what a Synology does.
    is_hidden = any(part.startswith((".", "@")) for part in name.split("/"))
    return name.lower().endswith(SUFFIXES) and not is_hidden


def _named(names: Sequence[str]) -> pa.Table:
    return _completed(pa.table({"file_name": pa.array(names, pa.string())}))


def _completed(table: pa.Table) -> pa.Table:
    """The columns of ``LIST_SCHEMA``; null where the table has none."""
    columns = [
        table[one.name] if one.name in table.column_names else pa.nulls(table.num_rows, one.type)
        for one in LIST_SCHEMA
    ]
    return pa.table(columns, names=LIST_SCHEMA.names).cast(LIST_SCHEMA)


def _in_order(rows: pa.Table) -> pa.Table:
    """Frames of a sequence side by side; without sequences, by place, time and name."""
    keys = pa.table(
        {
            "seq_id": rows["seq_id"],
            "site": rows["site"],
            "folder": pc.replace_substring_regex(rows["file_name"], _FOLDER, ""),
            "datetime": rows["datetime"],
            "file_name": rows["file_name"],
        }
    )
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in keys.column_names])
    return rows.take(order).combine_chunks()


def _read_text(store: Store, name: str) -> pa.Table:
    try:
        text = store.read(name).decode("utf-8-sig")
    except FileNotFoundError:
        raise _no_list(store, name) from None
    except UnicodeDecodeError as error:
        raise CatalogError(f"{name} is not UTF-8 text: {error}") from error
    return _named([line.strip() for line in text.splitlines()])


def _read_csv(store: Store, name: str) -> pa.Table:
    header = read_header(store, name)
    lower = {one.lower(): one for one in reversed(header)}
    column_of = {
        ours: next((lower[one] for one in COMMON_NAMES[ours] if one in lower), None)
        for ours in LIST_SCHEMA.names
    }
    found = {ours: theirs for ours, theirs in column_of.items() if theirs is not None}
    if "file_name" not in found:
        raise CatalogError(
            f"{name} has no column of file names, only {header[:12]}: call it "
            f"{' or '.join(COMMON_NAMES['file_name'][:3])}"
        )
    types = dict.fromkeys(found.values(), pa.string())
    parts = [part.select(list(found.values())) for part in iter_csv(store, name, types)]
    if not parts:
        return LIST_SCHEMA.empty_table()
    table = pa.concat_tables(parts).rename_columns(list(found))
    return _completed(_with_nulls(table))


def _with_nulls(table: pa.Table) -> pa.Table:
    """Null for what is empty, and times read; null for those that are none."""
    for at, name in enumerate(table.column_names):
        column = table[name]
        if name == "datetime":
            times = pd.to_datetime(column.to_pandas(), format="ISO8601", errors="coerce")
            column = pa.array(times.astype("datetime64[ms]"), pa.timestamp("ms"), from_pandas=True)
        elif name != "file_name":
            is_said = pc.not_equal(column, "")
            column = pc.if_else(is_said, column, pa.scalar(None, pa.string()))
        table = table.set_column(at, name, column)
    return table


def _read_parquet(store: Store, name: str) -> pa.Table:
    try:
        table = read_table(store, name)
    except FileNotFoundError:
        raise _no_list(store, name) from None
    except UNREADABLE as error:
        raise CatalogError(f"{name} cannot be read as Parquet: {error}") from error
    if "file_name" not in table.column_names:
        raise CatalogError(f"{name} has no column file_name, only {table.column_names[:12]}")
    return _completed(table)


def _no_list(store: Store, name: str) -> CatalogError:
    return CatalogError(f"there is no list {store.at(name).url}")
