"""What a label file says, row by row, before images and labels are joined.

A reader hands over tables of these two schemas in any order and size; they go to Parquet files in a
scratch folder, so that a reader's memory does not grow with its file.
"""

from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.catalog.table import ANNOTATION_SCHEMA

IMAGE_ROWS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # how the file's annotations name it
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("seq_id", pa.string()),  # null: to be made from site and time
        pa.field("frame_num", pa.int32()),  # null: by time and file name
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("site", pa.string()),
        pa.field("season", pa.string()),
        pa.field("datetime", pa.string()),  # as written; read, and checked, in one place
        pa.field("given_split", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("content_hash", pa.string()),
    ]
)

ANNOTATION_ROWS = pa.schema(
    [
        pa.field("key", pa.string()),  # null: said of the whole sequence ``seq_id``
        pa.field("season", pa.string()),
        *(field for field in ANNOTATION_SCHEMA if field.name not in ("image_id", "seq_id")),
        pa.field("seq_id", pa.string()),
    ]
)

UNKNOWN = ("", "unknown", "na", "nan", "none", "null")
"""How label files write that they do not know, in lower case."""


def known(texts: pa.Array) -> pa.Array:
    """The same column, null where it says that it does not know."""
    is_unknown = pc.is_in(pc.utf8_lower(texts), value_set=pa.array(UNKNOWN, pa.string()))
    return pc.if_else(is_unknown, pa.scalar(None, pa.string()), texts)


class RowWriter:
    """Parquet files of image and annotation rows in ``scratch``; use it as a context.

    Args:
        scratch: local folder; ``images.rows`` and ``annotations.rows`` appear in it.
    """

    def __init__(self, scratch: Path) -> None:
        self.images_path = scratch / "images.rows"
        self.annotations_path = scratch / "annotations.rows"
        self._images = pq.ParquetWriter(self.images_path, IMAGE_ROWS, compression="zstd")
        self._annotations = pq.ParquetWriter(
            self.annotations_path, ANNOTATION_ROWS, compression="zstd"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._images.close()
        self._annotations.close()

    def add_images(self, columns: dict[str, object]) -> None:
        """Add rows of ``IMAGE_ROWS``; a column that is left out is null."""
        self._images.write_table(_filled(columns, IMAGE_ROWS))

    def add_annotations(self, columns: dict[str, object]) -> None:
        """Add rows of ``ANNOTATION_ROWS``; a column that is left out is null."""
        table = {"is_of_sequence": pa.repeat(False, _num_rows(columns))} | columns  # noqa: FBT003
        self._annotations.write_table(_filled(table, ANNOTATION_ROWS))


def _filled(columns: dict[str, object], schema: pa.Schema) -> pa.Table:
    num_rows = _num_rows(columns)
    return pa.table(
        [
            columns[field.name] if field.name in columns else pa.nulls(num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


def _num_rows(columns: dict[str, object]) -> int:
    return len(next(iter(columns.values())))  # type: ignore[arg-type]
