"""One flat CSV with a row per image (or per image and label), as a catalog."""

import pandas as pd
import pyarrow as pa

from serengeti_etl.catalog.table import image_key, make_catalog
from serengeti_etl.config import EMPTY, CsvColumns
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store


def read_flat_csv(source: Store, name: str, columns: CsvColumns) -> pa.Table:
    """The catalog of a CSV whose columns are named by ``columns``.

    Several rows of one file are several labels of one image.

    Args:
        source: where the label file lies.
        name: its name there, or a full url.
        columns: which column says what.

    Raises:
        CatalogError: a named column is missing, or two rows of one image disagree.
    """
    frame = _read(source, name)
    _check_columns(frame, columns, name)
    merged = _one_row_per_image(_named(frame, columns), name)
    moments = pd.to_datetime(merged["datetime"], errors="coerce", format="ISO8601")
    return make_catalog(
        {
            "image_id": merged["file_name"].map(image_key),
            "seq_id": merged["seq_id"],
            "frame_num": merged["frame_num"],
            "file_name": merged["file_name"],
            "site": merged["site"],
            "season": merged["season"],
            "datetime": moments.astype("datetime64[ms]"),
            "labels": merged["labels"].tolist(),
        }
    )


def _read(source: Store, name: str) -> pd.DataFrame:
    try:
        with source.at(name).open_input("") as file:
            return pd.read_csv(file, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise CatalogError(f"there is no label file {source.at(name).url}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise CatalogError(f"{name} is not a readable CSV: {error}") from error


def _check_columns(frame: pd.DataFrame, columns: CsvColumns, name: str) -> None:
    fields = ("file_name", "label", "site", "seq_id", "frame_num", "datetime", "season")
    wanted = [getattr(columns, field) for field in fields]
    missing = [column for column in wanted if column is not None and column not in frame]
    if missing:
        raise CatalogError(
            f"{name} has no column {missing[0]!r}, only {list(frame.columns)}: "
            "name its columns with CsvColumns, or set what it lacks to None"
        )


def _named(frame: pd.DataFrame, columns: CsvColumns) -> pd.DataFrame:
    """The columns under the catalog's names; a column the file lacks is filled in."""
    files = frame[columns.file_name]
    blank = pd.Series("", index=frame.index)
    frame_nums = (
        frame[columns.frame_num] if columns.frame_num else pd.Series("1", index=files.index)
    )
    return pd.DataFrame(
        {
            "file_name": files,
            "label": frame[columns.label],
            "site": frame[columns.site] if columns.site else blank,
            "seq_id": frame[columns.seq_id] if columns.seq_id else files.map(image_key),
            "frame_num": _frame_nums(frame_nums),
            "datetime": frame[columns.datetime] if columns.datetime else blank,
            "season": frame[columns.season] if columns.season else blank,
            "labels": [_categories(cell, columns) for cell in frame[columns.label]],
        }
    )


def _frame_nums(texts: "pd.Series[str]") -> "pd.Series[int]":
    numbers = pd.to_numeric(texts.replace("", "1"), errors="coerce")
    bad = texts[numbers.isna()]
    if len(bad):
        raise CatalogError(f"row {bad.index[0] + 2}: frame number {bad.iloc[0]!r} is not a number")
    return numbers.astype("int32").clip(lower=1)


def _categories(cell: str, columns: CsvColumns) -> list[str]:
    names = (part.strip() for part in cell.split(columns.label_separator))
    return [EMPTY if name == columns.empty_label else name for name in names if name]


def _one_row_per_image(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    by_file = frame.groupby("file_name", sort=True)
    for column in ("site", "seq_id", "frame_num", "datetime"):
        values = by_file[column].nunique()
        if (values > 1).any():
            raise CatalogError(f"{name}: two rows of {values.idxmax()!r} differ in {column}")
    merged = by_file.first()
    labels = frame.explode("labels").dropna(subset="labels").groupby("file_name")["labels"]
    merged["labels"] = labels.agg(lambda found: sorted(set(found))).reindex(merged.index)
    merged["labels"] = [found if isinstance(found, list) else [] for found in merged["labels"]]
    return merged.reset_index()
