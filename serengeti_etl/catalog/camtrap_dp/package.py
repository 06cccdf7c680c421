"""A Camtrap DP where it lies, as folder, zip or JSON, and its tables as text.

Version 1.0; and 0.1 as Agouti exported it, whose older names are read as the newer.
"""

import csv
import json
import re
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import SEEK_END
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import pandas as pd

from serengeti_etl.catalog.camtrap_dp.words import (
    BBOX,
    CATEGORIES,
    DATA_PACKAGE,
    MISSING,
    UNCLASSIFIED,
    WORDS,
)
from serengeti_etl.catalog.label_file import open_label_zip
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

_VERSIONS = ("1.0", "0.1")
_OLD_NAMES = {
    "sequenceID": "eventID",
    "behaviour": "behavior",
    "classificationConfidence": "classificationProbability",
}
"""Columns of 0.1 that were renamed, and their names in 1.0."""

_REQUIRED = {
    "deployments": ("deploymentID",),
    "media": ("mediaID", "deploymentID", "timestamp", "filePath", "fileMediatype"),
    "observations": (
        *("observationID", "deploymentID", "mediaID", "eventID"),
        *("observationType", "scientificName"),
    ),
}
_OPTIONAL = {
    "deployments": ("locationID", "locationName", "deploymentGroups"),
    "media": ("eventID", "fileName", "exifData"),
    "observations": (
        *("eventStart", "eventEnd", "observationLevel", *WORDS.values(), *BBOX.values()),
        *("classificationProbability", "observationTags"),
    ),
}

_TAIL_NUM_BYTES = 1 << 16
NUM_ROWS_PER_PART = 200_000
_FIRST_ROW = 2  # of data, where the header is row 1


@dataclass(frozen=True, kw_only=True, slots=True)
class CamtrapPackage:
    """A Camtrap DP, wherever it lies.

    Attributes:
        name: as it was given, for messages.
        place: the folder of its datapackage.json, or the zip that holds it.
        folder_in_zip: of its datapackage.json, ``""`` or ``folder/``; None where ``place`` is no
            zip.
        version: of Camtrap DP, such as ``1.0.2``.
        resources: what datapackage.json says of each table, by its name.
    """

    name: str
    place: Store
    folder_in_zip: str | None
    version: str
    resources: Mapping[str, Mapping[str, Any]]

    def path(self, table: str) -> str:
        """Path of a table below the package, or its full url.

        Raises:
            CatalogError: the package has no such table, or names a place outside of itself.
        """
        if table not in self.resources:
            raise CatalogError(
                f"{self.name} has no resource {table!r}, only {sorted(self.resources)}: add it to "
                f"{DATA_PACKAGE}, or export the package again"
            )
        path = self.resources[table].get("path")
        if not isinstance(path, str) or path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise CatalogError(
                f"{self.name}: the path of resource {table!r} is {path!r}, but it must be one file "
                f"below {DATA_PACKAGE}, or a url"
            )
        return path

    def label(self, table: str) -> str:
        """The package and a table's file, for messages."""
        return f"{self.name}: {self.path(table)}"

    def delimiter(self, table: str) -> str:
        """The character between two cells of a table."""
        dialect = self.resources[table].get("dialect")
        return str(dialect.get("delimiter", ",")) if isinstance(dialect, dict) else ","

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        """The file ``path`` below the package, or of that full url, open for reading.

        Raises:
            CatalogError: it is not there, or the zip is damaged.
        """
        in_zip = None if self.folder_in_zip is None or "://" in path else self.folder_in_zip + path
        place = self.place if in_zip else self.place.at(path)
        with _open(place, in_zip, f"{self.name}: {path}") as file:
            yield file


def open_package(source: Store, name: str) -> CamtrapPackage:
    """The Camtrap DP ``name``: its folder, a zip of it, or its datapackage.json.

    Raises:
        CatalogError: there is none, it is damaged, or of a version that is not read.
    """
    place = source.at(name)
    in_zip = _find_in_zip(source, name) if place.url.lower().endswith(".zip") else None
    name = name or place.url
    if in_zip is not None:
        opened = _open(place, in_zip, name)
    elif place.url.lower().endswith(".json"):
        opened = _open(place, None, name)
        file_name = place.url.rpartition("/")[-1]
        place = Store(url=place.url.removesuffix(file_name) or ".", options=place.options)
    else:
        opened = _open(place.at(DATA_PACKAGE), None, f"{name}/{DATA_PACKAGE}")
    with opened as file:
        description = _parse(file.read(), name)
    return CamtrapPackage(
        name=name,
        place=place,
        folder_in_zip=None if in_zip is None else in_zip.removesuffix(DATA_PACKAGE),
        version=_version(description, name),
        resources=_resources(description, name),
    )


@contextmanager
def _open(place: Store, in_zip: str | None, label: str) -> Iterator[BinaryIO]:
    """The file at ``place``, or its member ``in_zip`` where ``place`` is a zip."""
    try:
        with place.open_input("") as file:
            if in_zip is None:
                yield file
                return
            with zipfile.ZipFile(file) as archive:
                if in_zip not in archive.namelist():
                    raise CatalogError(f"{label} is not in the zip: zip the whole package again")
                with archive.open(in_zip) as member:
                    yield member  # type: ignore[misc]
    except (FileNotFoundError, NotADirectoryError):
        raise CatalogError(
            f"there is no file {place.url}: give a Camtrap DP with its {DATA_PACKAGE} and tables"
        ) from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise CatalogError(f"{label}: the zip is damaged ({error}); fetch it again") from error


def _find_in_zip(source: Store, name: str) -> str:
    """The one datapackage.json at the root of a zip, or else in one of its folders."""
    with open_label_zip(source, name) as archive:
        members = archive.namelist()
    found = [one for one in members if re.fullmatch(rf"([^/]+/)?{DATA_PACKAGE}", one)]
    if DATA_PACKAGE in found:
        return DATA_PACKAGE
    if len(found) != 1:
        raise CatalogError(
            f"{name} must hold one {DATA_PACKAGE}, at its root or in a folder, but holds "
            f"{found or members[:3]}: zip one package"
        )
    return found[0]


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        description = json.loads(content)
    except ValueError as error:
        raise CatalogError(
            f"{name}: {DATA_PACKAGE} is no JSON, or is cut ({error}); fetch it again"
        ) from error
    if not isinstance(description, dict):
        raise CatalogError(f"{name}: {DATA_PACKAGE} holds no JSON object: give a Camtrap DP")
    return description


def _version(description: dict[str, Any], name: str) -> str:
    profile = str(description.get("profile"))
    found = re.search(r"camtrap-dp/v?(\d+(?:\.\d+)+)", profile)
    if found is None:
        raise CatalogError(
            f"{name}: its profile {profile!r} names no version of Camtrap DP: set it to the "
            "address of the profile of 1.0.2, if it is of that version"
        )
    if ".".join(found[1].split(".")[:2]) not in _VERSIONS:
        raise CatalogError(
            f"{name} is of Camtrap DP {found[1]}, but {' and '.join(_VERSIONS)} are read: export "
            "it again as 1.0.2"
        )
    return found[1]


def _resources(description: dict[str, Any], name: str) -> dict[str, Mapping[str, Any]]:
    resources = description.get("resources")
    if not isinstance(resources, list) or not all(isinstance(one, dict) for one in resources):
        raise CatalogError(f"{name}: {DATA_PACKAGE} has no list of resources: give a Camtrap DP")
    return {str(one.get("name")): one for one in resources}


def read_table(package: CamtrapPackage, table: str) -> pd.DataFrame:
    """The columns that we know of a table, as text; the index is the row of the file."""
    label = package.label(table)
    with TemporaryFile() as copy:
        with package.open(package.path(table)) as file:
            shutil.copyfileobj(file, copy)
        try:
            return _parse_csv(copy, package, table)
        except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
            told = " ".join(str(error).split())
            raise CatalogError(f"{label}: {told}; mend that row, or fetch it again") from error
        except UnicodeDecodeError as error:
            raise CatalogError(f"{label} is not UTF-8 ({error}): save it as UTF-8") from error
        except pd.errors.EmptyDataError as error:
            raise CatalogError(f"{label} is empty: it needs a header; fetch it again") from error


def _parse_csv(file: BinaryIO, package: CamtrapPackage, table: str) -> pd.DataFrame:
    mark = package.delimiter(table)
    num_last_cells = _num_cells_without_end(file, mark)
    file.seek(0)
    parts = []
    with warnings.catch_warnings():
        # Cells beyond the header would be dropped with no more than this warning.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        for part in pd.read_csv(
            file,
            sep=mark,
            dtype="string",
            keep_default_na=False,
            na_values=list(MISSING),
            encoding="utf-8-sig",
            index_col=False,
            skip_blank_lines=False,  # so that rows are counted as a person counts them
            chunksize=NUM_ROWS_PER_PART,
        ):
            _refuse_cut(part, num_last_cells, package.label(table))
            parts.append(_known_columns(part, package, table))
    frame = pd.concat(parts)
    frame.index += _FIRST_ROW
    return frame.dropna(how="all")


def _num_cells_without_end(file: BinaryIO, delimiter: str) -> int | None:
    """Cells of the last line, where no line end follows it; None where one does."""
    size = file.seek(0, SEEK_END)
    file.seek(max(0, size - _TAIL_NUM_BYTES))
    last = file.read().rpartition(b"\n")[2].decode("utf-8", errors="replace")
    return len(next(csv.reader([last], delimiter=delimiter))) if last else None


def _refuse_cut(part: pd.DataFrame, num_last_cells: int | None, label: str) -> None:
    """Refuse a file whose last line just stops; other short rows are common, and lack nothing."""
    if num_last_cells is not None and num_last_cells < len(part.columns):
        raise CatalogError(
            f"{label} ends in the middle of a row: {num_last_cells} of {len(part.columns)} cells; "
            "fetch it again"
        )


def _known_columns(part: pd.DataFrame, package: CamtrapPackage, table: str) -> pd.DataFrame:
    """The columns that we know, by their names in 1.0; those that are not there are missing."""
    named = part.rename(columns=_OLD_NAMES) if package.version.startswith("0.") else part
    for column in _REQUIRED[table]:
        if column not in named:
            raise CatalogError(
                f"{package.label(table)} has no column {column!r}, only {list(part)[:12]}: export "
                "the package again, or add the column"
            )
    wanted = [*_REQUIRED[table], *_OPTIONAL[table]]
    return named.reindex(columns=wanted).astype("string")


# What contradicts itself.


def refuse_bad_ids(
    package: CamtrapPackage,
    deployments: pd.DataFrame,
    media: pd.DataFrame,
    observations: pd.DataFrame,
) -> None:
    """Refuse ids that are missing or repeated, media without file, and unlisted deployments."""
    _refuse_missing(deployments["deploymentID"], package.label("deployments"))
    _refuse_repeated(deployments["deploymentID"], package.label("deployments"))
    for table, frame, own in (
        ("media", media, "mediaID"),
        ("observations", observations, "observationID"),
    ):
        for column in (own, "deploymentID"):
            _refuse_missing(frame[column], package.label(table))
        _refuse_repeated(frame[own], package.label(table))
        unlisted = frame[~frame["deploymentID"].isin(deployments["deploymentID"])]
        if len(unlisted):
            raise CatalogError(
                f"{package.label(table)}, row {unlisted.index[0]}: deploymentID "
                f"{unlisted['deploymentID'].iloc[0]!r} is not in {package.path('deployments')}: "
                "add it there, or remove the row"
            )
    _refuse_missing(media["filePath"], package.label("media"))


def _refuse_missing(values: "pd.Series[str]", label: str) -> None:
    missing = values.index[values.isna()]
    if len(missing):
        raise CatalogError(f"{label}, row {missing[0]} has no {values.name}: add it")


def _refuse_repeated(values: "pd.Series[str]", label: str) -> None:
    repeated = values[values.duplicated()]
    if len(repeated):
        first, second = values.index[values == repeated.iloc[0]][:2]
        raise CatalogError(
            f"{label}, rows {first} and {second}: both have {values.name} {repeated.iloc[0]!r}; "
            "remove one, or give it an id of its own"
        )


def refuse_bad_types(package: CamtrapPackage, observations: pd.DataFrame) -> None:
    """Refuse an observationType that the format does not have."""
    known_types = (*CATEGORIES, UNCLASSIFIED)
    bad = observations[~observations["observationType"].isin(known_types)]
    if len(bad):
        raise CatalogError(
            f"{package.label('observations')}, row {bad.index[0]}: observationType is "
            f"{bad['observationType'].iloc[0]!r}, but it must be one of {', '.join(known_types)}: "
            "mend that row"
        )
