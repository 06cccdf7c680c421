"""A catalog written as COCO Camera Traps: what ``read_coco`` reads back to the same catalog."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.table import BEHAVIOURS
from serengeti_etl.label_config import EMPTY
from serengeti_etl.storage import Store

_BATCH_SIZE = 20_000
_UNKNOWN = "unknown"
_SAME_NAME = (
    *BEHAVIOURS,
    "count",
    "behavior",
    "life_stage",
    "sex",
    "individual_id",
    "subject_id",
    "probability",
)
_BBOX = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")

Entry = dict[str, Any]


def write_coco(
    images: pa.Table, annotations: Iterable[pa.RecordBatch], output: Store, name: str
) -> int:
    """Number of annotations left out, after writing the rest as ``name`` at ``output``.

    Left out are those that speak of a sequence only, whose frames have annotations of their own:
    the format has no place for them.

    Args:
        images: rows of ``CATALOG_SCHEMA``.
        annotations: rows of ``ANNOTATION_SCHEMA``, in parts.
        output: folder or bucket prefix.
        name: of the JSON file.
    """
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "labels.json"
        with path.open("w", encoding="utf-8") as file:
            num_left_out = _write(file, images, annotations)
        output.upload(path, name)
    return num_left_out


def _write(file: TextIO, images: pa.Table, annotations: Iterable[pa.RecordBatch]) -> int:
    counter = _Annotations(images, annotations)
    file.write(f'{{\n"info": {json.dumps({"version": "1.0", "description": "COCO Camera Traps"})},')
    _write_list(file, "images", _images(images))
    file.write(",")
    _write_list(file, "annotations", counter.entries())
    file.write(",")
    # Last, because only now it is known which occur.
    _write_list(file, "categories", counter.categories())
    file.write("\n}\n")
    return counter.num_left_out


def _write_list(file: TextIO, key: str, entries: Iterable[Entry]) -> None:
    file.write(f'\n"{key}": [')
    separator = "\n"
    for entry in entries:
        text = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        file.write(f"{separator}{text}")
        separator = ",\n"
    file.write("\n]")


def _images(images: pa.Table) -> Iterator[Entry]:
    counts = pc.value_counts(images["seq_id"])
    places = pc.index_in(images["seq_id"], value_set=counts.field("values"))
    table = images.append_column("seq_num_frames", counts.field("counts").take(places))
    for batch in table.to_batches(max_chunksize=_BATCH_SIZE):
        for row in batch.to_pylist():
            yield _image(row)


def _image(row: Entry) -> Entry:
    entry = {
        "id": row["image_id"],
        "file_name": row["file_name"],
        "frame_num": row["frame_num"],
        "seq_id": row["seq_id"],
        "seq_num_frames": row["seq_num_frames"],
        "width": row["width"] or -1,
        "height": row["height"] or -1,
        "location": row["site"] or _UNKNOWN,
        "datetime": row["datetime"].isoformat(sep=" ") if row["datetime"] else _UNKNOWN,
    }
    extra = {"season": row["season"] or None, "split": row["given_split"]}
    extra["content_hash"] = row["content_hash"]
    return entry | {key: value for key, value in extra.items() if value is not None}


class _Annotations:
    """Annotations as entries, and the categories that they turn out to have."""

    def __init__(self, images: pa.Table, annotations: Iterable[pa.RecordBatch]) -> None:
        self._images = images
        self._annotations = annotations
        self._ids: dict[str, int] = {EMPTY: 0}
        self.num_left_out = 0

    def entries(self) -> Iterator[Entry]:
        number = 0
        for batch in self._annotations:
            for row in self._with_sizes(pa.Table.from_batches([batch])).to_pylist():
                if row["image_id"] is None:
                    self.num_left_out += 1
                    continue
                number += 1
                yield self._entry(row, number)

    def categories(self) -> Iterator[Entry]:
        for name, number in sorted(self._ids.items(), key=lambda item: item[1]):
            yield {"id": number, "name": name}

    def _with_sizes(self, table: pa.Table) -> pa.Table:
        """The rows with width and height of their images in px."""
        if not pc.any(pc.is_valid(table["bbox_unit"])).as_py():
            return table
        places = pc.index_in(table["image_id"], value_set=self._images["image_id"])
        for side in ("width", "height"):
            table = table.append_column(side, self._images[side].take(places))
        return table

    def _entry(self, row: Entry, number: int) -> Entry:
        entry = {
            "id": row["annotation_id"] or str(number),
            "image_id": row["image_id"],
            "category_id": self._ids.setdefault(row["category"], len(self._ids)),
            "seq_id": row["seq_id"],
            "sequence_level_annotation": row["is_of_sequence"],
        }
        known = {field: row[field] for field in _SAME_NAME if row[field] is not None}
        return entry | known | _box(row)


def _box(row: Entry) -> Entry:
    """``bbox`` in px; ``bbox_share`` where the size of the photograph is not known."""
    if row["bbox_unit"] is None:
        return {}
    box = [row[field] for field in _BBOX]
    if row["bbox_unit"] == "px":
        return {"bbox": box}
    if row["width"] is None or row["height"] is None:
        return {"bbox_share": box}
    sides = (row["width"], row["height"]) * 2
    return {"bbox": [share * side for share, side in zip(box, sides, strict=True)]}
