"""The CSV pair of the Hakuna Ma-data competition: one row per image, one per sequence.

``train_metadata.csv`` has seq_id, file_name and datetime; ``train_labels.csv`` has seq_id and one
column of 0 and 1 per category. Site and season stand in the seq_id.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.csv_file import iter_csv
from serengeti_etl.catalog.rows import RowWriter, known
from serengeti_etl.catalog.seq_ids import places_of
from serengeti_etl.catalog.table import image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

METADATA, LABELS = "train_metadata.csv", "train_labels.csv"


def read_hakuna(source: Store, name: str, rows: RowWriter) -> None:
    """Put the pair into ``rows``; ``name`` is its folder, or either of the two files.

    Raises:
        CatalogError: one of the two is missing, lacks a column, or holds another value than 0 or 1.
    """
    folder = source.at(name.removesuffix(METADATA).removesuffix(LABELS).rstrip("/"))
    for part in iter_csv(folder, METADATA, dict.fromkeys(_METADATA_COLUMNS, pa.string())):
        rows.add_images(_image_columns(part))
    seen: list[pa.ChunkedArray] = []
    for part in iter_csv(folder, LABELS, {"seq_id": pa.string()}, rest=pa.int8()):
        seen.append(part["seq_id"])
        for columns in _annotation_columns(part):
            rows.add_annotations(columns)
    _refuse_repeated(seen)


_METADATA_COLUMNS = ("seq_id", "file_name", "datetime")


def _image_columns(part: pa.Table) -> dict[str, object]:
    files, seq_ids = (part[column].combine_chunks() for column in ("file_name", "seq_id"))
    keys = image_keys(files)
    return {
        "key": keys,
        "image_id": keys,
        "seq_id": known(seq_ids),
        "file_name": files,
        "datetime": part["datetime"].combine_chunks(),
        **places_of(seq_ids),
    }


def _annotation_columns(part: pa.Table) -> Iterator[dict[str, object]]:
    """One row per sequence and category that is 1."""
    categories = [column for column in part.column_names if column != "seq_id"]
    flags = np.column_stack([part[category].to_numpy() for category in categories])
    _refuse_other_numbers(part, categories, flags)
    at_row, at_category = np.nonzero(flags)
    if len(at_row):
        yield {
            "seq_id": part["seq_id"].combine_chunks().take(pa.array(at_row)),
            "category": pa.array(categories, pa.string()).take(pa.array(at_category)),
            "is_of_sequence": pa.repeat(True, len(at_row)),  # noqa: FBT003
        }


def _refuse_other_numbers(
    part: pa.Table, categories: list[str], flags: npt.NDArray[np.int8]
) -> None:
    bad = np.argwhere(flags >> 1)
    if len(bad):
        row, column = bad[0]
        raise CatalogError(
            f"{LABELS}: {categories[column]} of {part['seq_id'][row].as_py()!r} is "
            f"{flags[row, column]}, but labels are 0 or 1: mend that row"
        )


def _refuse_repeated(seen: list[pa.ChunkedArray]) -> None:
    seq_ids = pa.chunked_array([chunk for part in seen for chunk in part.chunks], pa.string())
    counts = pc.value_counts(seq_ids)
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise CatalogError(
            f"{LABELS} has more than one row of {repeated[0].as_py()!r} ({len(repeated)} such "
            "sequences): remove the repeated rows"
        )
