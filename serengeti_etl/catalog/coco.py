"""LILA's COCO Camera Traps v2.1 and plain COCO: label files of any size, read.

Source of the format: lila.science "COCO Camera Traps"; its quirks as met in Snapshot Serengeti:
bare ``NaN``, ``"unknown"`` for location and datetime, width −1, season only on annotations, labels
of a sequence copied to each of its frames, counts that are text, numbers or bins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.json_stream import iter_members
from serengeti_etl.catalog.label_file import open_label_file, open_label_zip
from serengeti_etl.catalog.rows import RowWriter, known
from serengeti_etl.catalog.seq_ids import places_of, plain_seasons
from serengeti_etl.catalog.table import BEHAVIOURS, image_keys
from serengeti_etl.config import without_query
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

Entry = dict[str, Any]


def read_coco(source: Store, name: str, rows: RowWriter) -> None:
    """Put what a ``.json`` or zipped ``.json`` in COCO format says into ``rows``.

    The file is read twice: for its categories, which may stand last, and for all the rest.

    Raises:
        CatalogError: it is not such a file, is cut, or an annotation's category is not listed.
    """
    with _open_json(source, name) as file:
        names = _categories(file, name)
    found = set()
    with _open_json(source, name) as file:
        for key, value in iter_members(file, name):
            found.add(key)
            if key == "images":
                _add(rows.add_images, _image_columns, value, f"{name}: an image")
            elif key == "annotations":
                columns = _annotation_columns_for(names, name)
                _add(rows.add_annotations, columns, value, f"{name}: an annotation")
    missing = [key for key in ("images", "annotations") if key not in found]
    if missing:
        raise CatalogError(f"{name} has no {', '.join(missing)}: it is not a COCO label file")


@contextmanager
def _open_json(source: Store, name: str) -> Iterator[BinaryIO]:
    """The JSON file ``name``, or the only one in the zip ``name``, open for reading.

    Raises:
        CatalogError: there is no such file, or the zip is damaged or holds another number.
    """
    if not without_query(name).lower().endswith(".zip"):
        with open_label_file(source, name) as file:
            yield file
        return
    with open_label_zip(source, name) as archive:
        found = [one for one in archive.namelist() if one.lower().endswith(".json")]
        if len(found) != 1:
            raise CatalogError(f"{name} must hold exactly one .json, but holds {found[:3]}")
        with archive.open(found[0]) as member:
            yield member  # type: ignore[misc]


def _categories(file: BinaryIO, name: str) -> dict[Any, str]:
    """Category names by their ids in the file."""
    names: dict[Any, str] = {}
    is_there = False
    for key, value in iter_members(file, name):
        if key == "categories" and isinstance(value, list):
            is_there = True
            names |= {_of(one, "id"): str(_of(one, "name")) for one in value}
        elif is_there:
            return names
    if not is_there:
        raise CatalogError(f"{name} has no categories: it is not a COCO label file")
    return names


def _of(category: Any, field: str) -> Any:
    if not isinstance(category, dict) or field not in category:
        raise CatalogError(f"category {category!r} has no {field!r}: mend the label file")
    return category[field]


def _add(
    add: Callable[[dict[str, Any]], None],
    columns: Callable[[list[Entry]], dict[str, Any]],
    value: Any,
    what: str,
) -> None:
    """Hand on one part of a list of entries; ``what`` names them in errors."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise CatalogError(f"{what} is not a JSON object: it is not a COCO label file")
    if not value:
        return
    try:
        add(columns(value))
    except CatalogError:  # says it better; it is a ValueError too
        raise
    except KeyError as error:
        bad = next(entry for entry in value if error.args[0] not in entry)
        raise CatalogError(
            f"{what} lacks {error}: {str(bad)[:120]}; mend the label file"
        ) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError) as error:
        raise CatalogError(
            f"{what} holds a value of another kind than the rest: {error}"
        ) from error


def _image_columns(images: list[Entry]) -> dict[str, Any]:
    ids = [image["id"] for image in images]
    files = [image["file_name"] for image in images]
    # A plain COCO id is a number that says nothing; its file name is as unique and says more.
    names = [
        one if isinstance(one, str) else str(file) for one, file in zip(ids, files, strict=True)
    ]
    seq_ids = _texts(images, "seq_id")
    parts = places_of(seq_ids)
    # LILA says "unknown" where it could not read a header; the seq_id still names the site.
    sites = pc.coalesce(_texts(images, "location"), parts["site"])
    seasons = pc.coalesce(plain_seasons(_texts(images, "season")), parts["season"])
    frames = [image.get("frame_num") for image in images]
    return {
        "key": pa.array([str(one) for one in ids], pa.string()),
        "image_id": image_keys(pa.array(names, pa.string())),
        "seq_id": seq_ids,
        "frame_num": pa.array(frames, pa.int32(), from_pandas=True),
        "file_name": pa.array(files, pa.string()),
        "site": sites,
        "season": seasons,
        "datetime": _texts(images, "datetime"),
        "given_split": _texts(images, "split"),
        "width": _sides(images, "width"),
        "height": _sides(images, "height"),
        "content_hash": _texts(images, "content_hash"),
    }


def _annotation_columns_for(
    names: dict[Any, str], name: str
) -> Callable[[list[Entry]], dict[str, Any]]:
    """The function that makes columns of annotations whose categories are ``names``."""

    def columns(annotations: list[Entry]) -> dict[str, Any]:
        for one in annotations:
            if one["category_id"] not in names:
                raise CatalogError(
                    f"{name}: annotation {one.get('id')!r} of image {one['image_id']!r} is of "
                    f"category {one['category_id']!r}, which the file does not list: add it to "
                    "categories, or remove the annotation"
                )
        return {
            "annotation_id": _texts(annotations, "id"),
            "key": pa.array([str(one["image_id"]) for one in annotations], pa.string()),
            "season": plain_seasons(_texts(annotations, "season")),
            "category": pa.array([names[one["category_id"]] for one in annotations], pa.string()),
            "is_of_sequence": pa.array(
                [bool(one.get("sequence_level_annotation")) for one in annotations], pa.bool_()
            ),
            "count": _texts(annotations, "count"),
            **{field: _numbers(annotations, field) for field in BEHAVIOURS},
            "subject_id": _texts(annotations, "subject_id"),
            "probability": _numbers(annotations, "probability"),
            **_words(annotations),
            **_boxes(annotations),
        }

    return columns


def _words(annotations: list[Entry]) -> dict[str, pa.Array]:
    fields = ("behavior", "life_stage", "sex", "individual_id")
    return {field: _texts(annotations, field) for field in fields}


def _boxes(annotations: list[Entry]) -> dict[str, pa.Array]:
    """Columns of ``bbox`` (px), or of our own ``bbox_share`` for photographs of unknown size."""
    boxes = [one.get("bbox") or one.get("bbox_share") or (None,) * 4 for one in annotations]
    sides = zip(*boxes, strict=True)
    names = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
    columns = {name: pa.array(side, pa.float64()) for name, side in zip(names, sides, strict=True)}
    units = ["px" if one.get("bbox") else "share" for one in annotations]
    known = pc.is_valid(columns["bbox_x"])
    unit = pc.if_else(known, pa.array(units, pa.string()), pa.scalar(None, pa.string()))
    return columns | {"bbox_unit": unit}


def _texts(entries: list[Entry], field: str) -> pa.Array:
    """A column of text, null where the file does not know; 3 and 3.0 both become "3"."""
    values = [entry.get(field) for entry in entries]
    if not all(value is None or isinstance(value, str) for value in values):
        values = [_text(value) for value in values]
    return known(pa.array(values, pa.string()))


def _text(value: Any) -> str | None:
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(entries: list[Entry], field: str) -> pa.Array:
    return pa.array([entry.get(field) for entry in entries], pa.float64(), from_pandas=True)


def _sides(images: list[Entry], field: str) -> pa.Array:
    """A column of px, null where the file says −1."""
    sides = pa.array([image.get(field) for image in images], pa.int32(), from_pandas=True)
    return pc.if_else(pc.greater(sides, 0), sides, pa.scalar(None, pa.int32()))
