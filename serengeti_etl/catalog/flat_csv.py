"""One flat CSV with a row per image, per image and label, or per sequence with its frames."""

from typing import Any

import pandas as pd
import pyarrow as pa

from serengeti_etl.catalog.csv_file import read_csv
from serengeti_etl.catalog.rows import RowWriter, known
from serengeti_etl.catalog.table import image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.label_config import EMPTY, CsvColumns
from serengeti_etl.storage import Store

_OPTIONAL = (
    "site",
    "seq_id",
    "frame_num",
    "datetime",
    "season",
    "image_id",
    "count",
    "given_split",
    "content_hash",
)

COMMON_NAMES = {
    "file_name": ("file_name", "filename", "filepath", "file_path", "file", "path", "image"),
    "label": ("label", "labels", "category", "species", "class"),
    "site": ("site", "location", "location_id", "station", "camera"),
    "seq_id": ("seq_id", "sequence_id"),
    "frame_num": ("frame_num", "frame"),
    "datetime": ("datetime", "date_time", "timestamp"),
    "season": ("season",),
    "given_split": ("split",),
}


def read_flat_csv(source: Store, name: str, columns: CsvColumns, rows: RowWriter) -> None:
    """Put the images and labels of a CSV whose columns are named by ``columns`` into ``rows``.

    Several rows of one file are several labels of one image.

    Raises:
        CatalogError: a named column is missing, a row is cut, or two rows of one image disagree.
    """
    wanted = [*columns.file_names, columns.label]
    wanted += [one for field in _OPTIONAL if (one := getattr(columns, field)) is not None]
    frame = _named(read_csv(source, name, wanted), columns, name)
    images = frame.drop_duplicates(list(_IMAGE_COLUMNS))
    _refuse_disagreement(images, name)
    files = pa.array(images["file_name"], pa.string())
    rows.add_images(
        {
            "key": files,
            "image_id": image_keys(pa.array(images["image_id"], pa.string())),
            "file_name": files,
            "frame_num": pa.array(images["frame_num"], pa.int32(), from_pandas=True),
            **{one: _texts(images, one) for one in _TEXT_COLUMNS},
        }
    )
    labelled = frame.explode("labels").dropna(subset="labels")
    labelled = labelled.drop_duplicates(["file_name", "labels", "count"])
    if len(labelled):
        rows.add_annotations(
            {
                "key": pa.array(labelled["file_name"], pa.string()),
                "category": pa.array(labelled["labels"], pa.string()),
                "count": _texts(labelled, "count"),
            }
        )


def common_columns(header: list[str]) -> CsvColumns | None:
    """Which of these columns say what, by their usual names; None without file and label."""
    lower = {one.lower(): one for one in reversed(header)}
    found: dict[str, Any] = {
        field: next((lower[name] for name in names if name in lower), None)
        for field, names in COMMON_NAMES.items()
    }
    if found["file_name"] is None or found["label"] is None:
        return None
    return CsvColumns(**found)


_TEXT_COLUMNS = ("site", "season", "seq_id", "datetime", "given_split", "content_hash")
_IMAGE_COLUMNS = ("file_name", "image_id", "frame_num", *_TEXT_COLUMNS)


def _named(frame: pd.DataFrame, columns: CsvColumns, name: str) -> pd.DataFrame:
    """A row per frame under our own names; a column that the file lacks is filled in."""
    files = [list(row) for row in zip(*(frame[one] for one in columns.file_names), strict=True)]
    named = pd.DataFrame({"file_name": files}, index=frame.index)
    for field in _OPTIONAL:
        column = getattr(columns, field)
        named[field] = frame[column] if column is not None else ""
    named["labels"] = [_categories(cell, columns) for cell in frame[columns.label]]
    if columns.datetime_format is not None:
        named["datetime"] = _iso(named["datetime"], columns.datetime_format)
    if len(columns.file_names) > 1:
        named["frame_num"] = [[str(at + 1) for at in range(len(columns.file_names))]] * len(named)
        if columns.seq_id is None:
            named["seq_id"] = named["file_name"].str[0]
        named = named.explode(["file_name", "frame_num"])
    else:
        named["file_name"] = named["file_name"].str[0]
    named = named[named["file_name"] != ""]
    named["frame_num"] = _frame_nums(named["frame_num"], name)
    if columns.image_id is None:
        named["image_id"] = named["file_name"]
    return named


def _iso(texts: "pd.Series[str]", form: str) -> "pd.Series[str]":
    """Times as ISO text; what is of another form stays as it is, and is found out later."""
    moments = pd.to_datetime(texts, format=form, errors="coerce")
    return moments.dt.strftime("%Y-%m-%d %H:%M:%S").fillna(texts)


def _frame_nums(texts: "pd.Series[str]", name: str) -> "pd.Series[Any]":
    """Whole numbers, null where the file gives none."""
    numbers = pd.to_numeric(texts.mask(texts == ""), errors="coerce")
    bad = texts[numbers.isna() & (texts != "") | (numbers % 1 != 0) & numbers.notna()]
    if len(bad):
        raise CatalogError(
            f"{name}, row {bad.index[0]}: frame number {bad.iloc[0]!r} is not a whole number: "
            "mend that row"
        )
    return numbers.astype("Int32")


def _categories(cell: str, columns: CsvColumns) -> list[str]:
    names = (part.strip() for part in cell.split(columns.label_separator))
    return [EMPTY if name == columns.empty_label else name for name in names if name]


def _texts(frame: pd.DataFrame, column: str) -> pa.Array:
    return known(pa.array(frame[column], pa.string()))


def _refuse_disagreement(images: pd.DataFrame, name: str) -> None:
    """Refuse two rows of one file that say different things of it."""
    repeated = images[images["file_name"].duplicated(keep=False)]
    if repeated.empty:
        return
    first = repeated[repeated["file_name"] == repeated["file_name"].min()]
    column = next(one for one in _IMAGE_COLUMNS if len(set(first[one])) > 1)
    row, other = first.index[:2]
    raise CatalogError(
        f"{name}, rows {row} and {other}: they differ in {column} of {first['file_name'].iloc[0]!r}"
        f" ({first[column].iloc[0]!r}, {first[column].iloc[1]!r}); an image is of one sequence at "
        "one place and time: mend one of the rows"
    )
