"""LILA's COCO Camera Traps v2.1 and plain COCO, as a catalog.

Source of the format: lila.science "COCO Camera Traps"; its quirks as met in Snapshot Serengeti:
bare ``NaN`` (Python's parser takes it), ``"unknown"`` for location and datetime, width −1, season
only on annotations, labels of a sequence copied to each of its frames.
"""

import datetime as dt
import io
import json
import zipfile
from collections import defaultdict
from typing import Any

import pyarrow as pa

from serengeti_etl.catalog.table import image_key, make_catalog
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

_UNKNOWN = ("", "unknown", None)
_NUM_SEQ_ID_PARTS = 4


def read_coco(source: Store, name: str) -> pa.Table:
    """The catalog of a ``.json`` or ``.json.zip`` in COCO format.

    Args:
        source: where the label file lies.
        name: its name there, or a full url.

    Raises:
        CatalogError: it is not such a file, or contradicts itself.
    """
    try:
        content = source.at(name).read("")
    except FileNotFoundError:
        raise CatalogError(f"there is no label file {source.at(name).url}") from None
    value = _parse(content, name)
    missing = [key for key in ("images", "annotations", "categories") if key not in value]
    if missing:
        raise CatalogError(f"{name} has no {', '.join(missing)}: it is not a COCO label file")
    try:
        return _catalog(value)
    except KeyError as error:
        raise CatalogError(f"{name}: an entry lacks {error}") from error


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            content = _only_json(content, name)
        value = json.loads(content)
    except (ValueError, zipfile.BadZipFile) as error:
        raise CatalogError(f"{name} is not valid JSON: {error}; fetch it again") from error
    if not isinstance(value, dict):
        raise CatalogError(f"{name} holds a {type(value).__name__}, not a COCO object")
    return value


def _only_json(content: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        found = [member for member in archive.namelist() if member.endswith(".json")]
        if len(found) != 1:
            raise CatalogError(f"{name} must hold exactly one .json, but holds {found[:3]}")
        return archive.read(found[0])


def _catalog(value: dict[str, Any]) -> pa.Table:
    labels, season_of = _annotations(value)
    images = value["images"]
    sequences = [_seq_id(image) for image in images]
    seasons = [
        season_of.get(image["id"]) or _season(seq_id)
        for image, seq_id in zip(images, sequences, strict=True)
    ]
    return make_catalog(
        {
            "image_id": [_image_id(image) for image in images],
            "seq_id": sequences,
            "frame_num": [max(1, int(image.get("frame_num", 1))) for image in images],
            "file_name": [image["file_name"] for image in images],
            "site": [_site(image, seq) for image, seq in zip(images, sequences, strict=True)],
            "season": seasons,
            "datetime": [_datetime(image.get("datetime")) for image in images],
            "labels": [sorted(labels[image["id"]]) for image in images],
        }
    )


def _annotations(value: dict[str, Any]) -> tuple[dict[Any, set[str]], dict[Any, str]]:
    """Categories and season of each image by its id in the file."""
    names = {category["id"]: str(category["name"]) for category in value["categories"]}
    known = {image["id"] for image in value["images"]}
    labels: dict[Any, set[str]] = defaultdict(set)
    seasons: dict[Any, str] = {}
    for annotation in value["annotations"]:
        image_id, category = annotation["image_id"], annotation["category_id"]
        if category not in names:
            raise CatalogError(f"annotation of {image_id!r}: category {category} is not listed")
        if image_id not in known:
            raise CatalogError(f"an annotation names image {image_id!r}, which is not listed")
        labels[image_id].add(names[category])
        if "season" in annotation:
            seasons[image_id] = _plain_season(str(annotation["season"]))
    return labels, seasons


def _image_id(image: dict[str, Any]) -> str:
    # A plain COCO id is a number that says nothing; its file name is as unique and says more.
    identity = image["id"] if isinstance(image["id"], str) else image["file_name"]
    return image_key(str(identity))


def _seq_id(image: dict[str, Any]) -> str:
    return str(image["seq_id"]) if image.get("seq_id") not in _UNKNOWN else _image_id(image)


def _site(image: dict[str, Any], seq_id: str) -> str:
    location = image.get("location")
    if location not in _UNKNOWN:
        return str(location)
    # LILA says "unknown" where it could not read a header; the seq_id still names the site.
    parts = seq_id.split("#")
    return parts[1] if len(parts) == _NUM_SEQ_ID_PARTS else ""


def _season(seq_id: str) -> str:
    head, mark, _ = seq_id.partition("#")
    return _plain_season(head) if mark else ""


def _plain_season(text: str) -> str:
    # S11 alone is written "SER_S11"; a site can be called S10, so only the start is looked at.
    return text.removeprefix("SER_")


def _datetime(text: object) -> dt.datetime | None:
    if not isinstance(text, str) or text in _UNKNOWN:
        return None
    try:
        return dt.datetime.fromisoformat(text).replace(tzinfo=None, microsecond=0)
    except ValueError:
        return None
