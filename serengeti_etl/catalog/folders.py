"""Photographs sorted into one folder per category, with or without a folder per split above."""

from pathlib import PurePosixPath

import pyarrow as pa

from serengeti_etl.catalog.checks import Finding
from serengeti_etl.catalog.rows import RowWriter
from serengeti_etl.catalog.table import image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".mpo")
SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def read_folders(source: Store, name: str, rows: RowWriter) -> tuple[Finding, ...]:
    """Put the photographs below the folder ``name`` into ``rows``, labelled by their folder.

    Sites and times are not known. Hidden files and files with another extension than a
    photograph's are left out and counted.

    Raises:
        CatalogError: no photograph lies in a category's folder.
    """
    found = source.at(name).find("")
    files = [file for file in found if _is_photograph(file)]
    labelled = [(file, *_place(file)) for file in files if _place(file)[1]]
    if not labelled:
        raise CatalogError(
            f"{source.at(name).url} has no photographs in folders named by category, such as "
            "zebra/IMG_0001.JPG: give a folder that has, or a label file"
        )
    names = pa.array([file for file, _, _ in labelled], pa.string())
    splits = [split or None for _, split, _ in labelled]
    keys = image_keys(names)
    rows.add_images(
        {
            "key": keys,
            "image_id": keys,
            "file_name": names,
            "given_split": pa.array(splits, pa.string()),
        }
    )
    categories = [category for _, _, category in labelled]
    rows.add_annotations({"key": keys, "category": pa.array(categories, pa.string())})
    return _left_out(found, {file for file, _, _ in labelled})


def _is_photograph(file: str) -> bool:
    path = PurePosixPath(file)
    is_hidden = any(part.startswith(".") for part in path.parts)
    return path.suffix.lower() in IMAGE_EXTENSIONS and not is_hidden


def _place(file: str) -> tuple[str, str]:
    """Split and category by the folders of ``file``; "" where there is none."""
    folders = PurePosixPath(file).parts[:-1]
    split = SPLIT_FOLDERS.get(folders[0].lower(), "") if folders else ""
    rest = folders[1:] if split else folders
    return split, rest[0] if rest else ""


def _left_out(found: tuple[str, ...], taken: set[str]) -> tuple[Finding, ...]:
    others = [file for file in found if file not in taken]
    if not others:
        return ()
    return (
        Finding(
            name="other file",
            meaning="hidden, no photograph by its extension, or in no category's folder: ignored",
            unit="files",
            count=len(others),
            examples=tuple(sorted(others)[:3]),
        ),
    )
