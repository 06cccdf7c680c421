"""Camtrap DP read: the exchange format of camera-trap platforms, as folder, zip or JSON.

Source of the format: camtrap-dp.tdwg.org, version 1.0; and 0.1 as Agouti exported it, whose older
names are read as the newer. Observations speak of one medium or of an event, which is a sequence.
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
from heapq import nsmallest
from io import SEEK_END
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.checks import Finding
from serengeti_etl.catalog.folders import IMAGE_EXTENSIONS
from serengeti_etl.catalog.rows import RowWriter, known
from serengeti_etl.catalog.table import BEHAVIOURS, image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.label_config import EMPTY
from serengeti_etl.storage import Store

DATA_PACKAGE = "datapackage.json"
TABLES = ("deployments", "media", "observations")
MISSING = ("", "NA", "NaN", "nan")
"""How the tables of a package write that there is no value."""

CATEGORIES = {
    "animal": "animal",  # without scientificName; otherwise that is the category
    "human": "human",
    "vehicle": "vehicle",
    "blank": EMPTY,
    "unknown": "unknown",
}
"""Category of each observationType; ``unclassified`` has none."""
UNCLASSIFIED = "unclassified"
TAG_SEPARATOR = " | "

BBOX = {f"bbox_{side}": f"bbox{side.capitalize()}" for side in ("x", "y", "width", "height")}
WORDS = {
    "count": "count",
    "behavior": "behavior",
    "life_stage": "lifeStage",
    "sex": "sex",
    "individual_id": "individualID",
}
"""Our columns of text and theirs. What theirs may not hold, our writer puts into a tag."""

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
_NUM_ROWS_PER_PART = 200_000
_FIRST_ROW = 2  # of data, where the header is row 1
_MAX_INT32 = 2**31 - 1
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$"


def read_camtrap_dp(source: Store, name: str, rows: RowWriter) -> tuple[Finding, ...]:
    """What is odd in a Camtrap DP, after putting its images and labels into ``rows``.

    A medium's sequence is the event of its own observation; else the event of its deployment
    during which it was taken, the latest to begin; else what a 0.1 package calls its sequence.

    Raises:
        CatalogError: it is not such a package, is of an unknown version, is cut, repeats an id, or
            names a deployment that it does not list.
    """
    package = open_package(source, name)
    deployments, media, observations = (_read_table(package, table) for table in TABLES)
    _refuse_bad_ids(package, deployments, media, observations)
    _refuse_bad_types(package, observations)
    _name_events(media, observations)
    media["event"] = _events_of(media, observations)
    is_image = _are_images(media)
    _add_images(rows, media[is_image], deployments)
    is_of_nothing = observations["mediaID"].isna() & observations["event"].isna()
    is_label = (observations["observationType"] != UNCLASSIFIED) & ~is_of_nothing
    _add_annotations(rows, package, observations[is_label])
    return (
        *_finding(_NOT_IMAGE, media.loc[~is_image, "filePath"]),
        *_finding(_OF_NOTHING, observations.loc[is_of_nothing, "observationID"]),
        *_finding(_BAD_TIME, observations.loc[_has_bad_time(observations), "observationID"]),
    )


_NOT_IMAGE = ("not an image", "files", "media of another kind, such as videos: left out")
_OF_NOTHING = (
    "label of nothing",
    "annotations",
    "observations that name neither a medium nor an event: ignored",
)
_BAD_TIME = (
    "unreadable event time",
    "annotations",
    "eventStart or eventEnd is no time: no image is taken to belong to the event by its time",
)


def _finding(kind: tuple[str, str, str], names: "pd.Series[str]") -> tuple[Finding, ...]:
    """The finding of that name, unit and meaning, or nothing where there are no examples."""
    if names.empty:
        return ()
    name, unit, meaning = kind
    examples = tuple(nsmallest(3, names))
    return (Finding(name=name, meaning=meaning, unit=unit, count=len(names), examples=examples),)


# The package: where it lies, and its tables as text.


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
    place, in_zip = source.at(name), None
    name = name or place.url
    if place.url.lower().endswith(".zip"):
        in_zip = _find_in_zip(place, name)
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


def _find_in_zip(place: Store, name: str) -> str:
    """The one datapackage.json at the root of a zip, or else in one of its folders."""
    try:
        with place.open_input("") as file, zipfile.ZipFile(file) as archive:
            members = archive.namelist()
    except FileNotFoundError:
        raise CatalogError(f"there is no label file {place.url}") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise CatalogError(f"{name} is a damaged zip ({error}); fetch it again") from error
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


def _read_table(package: CamtrapPackage, table: str) -> pd.DataFrame:
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
            chunksize=_NUM_ROWS_PER_PART,
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


def _refuse_bad_ids(
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


def _refuse_bad_types(package: CamtrapPackage, observations: pd.DataFrame) -> None:
    known_types = (*CATEGORIES, UNCLASSIFIED)
    bad = observations[~observations["observationType"].isin(known_types)]
    if len(bad):
        raise CatalogError(
            f"{package.label('observations')}, row {bad.index[0]}: observationType is "
            f"{bad['observationType'].iloc[0]!r}, but it must be one of {', '.join(known_types)}: "
            "mend that row"
        )


# Events: which sequence each medium belongs to.


def _name_events(media: pd.DataFrame, observations: pd.DataFrame) -> None:
    """Add ``event`` to both tables: ids of events that mean one event each.

    An event without an id is named by its deployment and start.
    """
    of_event = observations["mediaID"].isna()
    made = observations["deploymentID"] + "#" + observations["eventStart"]
    observations["eventID"] = observations["eventID"].fillna(made.where(of_event))
    pairs = pd.concat([one[["eventID", "deploymentID"]] for one in (media, observations)])
    pairs = pairs.dropna().drop_duplicates()
    shared = pairs.loc[pairs["eventID"].duplicated(), "eventID"]
    for frame in (media, observations):
        is_shared = frame["eventID"].isin(shared)
        with_place = frame["deploymentID"] + "#" + frame["eventID"]
        frame["event"] = frame["eventID"].mask(is_shared, with_place)
    # Our own writer says so where one sequence is at two sites.
    tagged = tag_values(_texts(observations["observationTags"]), "seq_id")
    own = pd.Series(tagged.to_pandas().to_numpy(), observations.index, dtype="string")
    observations["event"] = own.fillna(observations["event"])


def _events_of(media: pd.DataFrame, observations: pd.DataFrame) -> "pd.Series[str]":
    """The event of each medium: by its observation, by time, by its own sequence, or missing."""
    seen = observations.dropna(subset=["mediaID", "event"])
    seen = seen[["mediaID", "event"]].sort_values("event").drop_duplicates("mediaID")
    events = media["mediaID"].map(seen.set_index("mediaID")["event"]).astype("string")
    waiting = media[events.isna()]
    if len(waiting):
        events = events.fillna(_events_by_time(waiting, observations))
    return events.fillna(media["event"])


def _events_by_time(media: pd.DataFrame, observations: pd.DataFrame) -> "pd.Series[str]":
    """The event of its deployment in which each medium was taken; missing outside of all."""
    whole = observations[observations["mediaID"].isna()].dropna(subset="event")
    columns = {"deploymentID": whole["deploymentID"], "event": whole["event"]}
    times = {name: _instants(whole[name]) for name in ("eventStart", "eventEnd")}
    events = pd.DataFrame(columns | times).dropna().drop_duplicates()
    by_deployment = dict(iter(events.sort_values(["eventStart", "event"]).groupby("deploymentID")))
    found = pd.Series(pd.NA, media.index, dtype="string")
    instants = _instants(media["timestamp"]).dropna()
    for deployment, group in instants.groupby(media["deploymentID"]):
        if deployment in by_deployment:
            own = by_deployment[deployment]
            at = _latest_around(
                group.to_numpy(), own["eventStart"].to_numpy(), own["eventEnd"].to_numpy()
            )
            found[group.index[at >= 0]] = own["event"].to_numpy()[at[at >= 0]]
    return found


def _latest_around(
    instants: "np.ndarray[Any, Any]", starts: "np.ndarray[Any, Any]", ends: "np.ndarray[Any, Any]"
) -> "np.ndarray[Any, Any]":
    """Place of the latest-starting span in which each instant lies; −1 outside of all.

    Args:
        instants: to look up.
        starts: of the spans, sorted.
        ends: of the same spans, inclusive.
    """
    latest_end = np.maximum.accumulate(ends)
    at = np.searchsorted(starts, instants, side="right") - 1
    while True:
        # ``latest_end`` tells when no earlier span reaches as far, so that few steps are taken.
        at[(at >= 0) & (latest_end[at] < instants)] = -1
        is_over = (at >= 0) & (ends[at] < instants)
        if not is_over.any():
            return at
        at[is_over] -= 1


def _instants(texts: "pd.Series[str]") -> "pd.Series[Any]":
    """Moments in UTC, missing where the text is none; without a zone it is taken as UTC."""
    moments = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    return moments.dt.tz_localize(None)


def _has_bad_time(observations: pd.DataFrame) -> "pd.Series[bool]":
    """True for observations of an event whose start or end is written, but is no time."""
    of_event = observations["mediaID"].isna()
    is_bad = pd.Series(data=False, index=observations.index)
    for column in ("eventStart", "eventEnd"):
        is_bad |= observations[column].notna() & _instants(observations[column]).isna()
    return of_event & is_bad


# Rows: tables in our own words.


def _are_images(media: pd.DataFrame) -> "pd.Series[bool]":
    """By media type; where the package gives none, by the extension of the file."""
    kinds = media["fileMediatype"]
    files = media["fileName"].fillna(media["filePath"]).str.lower()
    by_kind = kinds.str.lower().str.startswith("image/").fillna(value=False).astype(bool)
    return by_kind | (kinds.isna() & files.str.endswith(IMAGE_EXTENSIONS).astype(bool))


def _add_images(rows: RowWriter, media: pd.DataFrame, deployments: pd.DataFrame) -> None:
    places = _places(deployments)
    for part in _parts(media):
        exif = [_exif(text) for text in part["exifData"].fillna("")]
        ids = _texts(part["mediaID"])
        rows.add_images(
            {
                "key": ids,
                "image_id": image_keys(ids),
                "seq_id": _texts(part["event"]),
                "frame_num": pa.array([_whole(one, "frame_num", 0) for one in exif], pa.int32()),
                "file_name": _texts(part["filePath"]),
                "site": _texts(part["deploymentID"].map(places["site"])),
                "season": _texts(part["deploymentID"].map(places["season"])),
                "datetime": _with_fractions(_texts(part["timestamp"]), exif),
                "given_split": pa.array([_text(one, "given_split") for one in exif], pa.string()),
                "width": pa.array([_whole(one, "ImageWidth", 1) for one in exif], pa.int32()),
                "height": pa.array([_whole(one, "ImageHeight", 1) for one in exif], pa.int32()),
                "content_hash": pa.array([_text(one, "content_hash") for one in exif], pa.string()),
            }
        )


def _parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), _NUM_ROWS_PER_PART):
        yield frame.iloc[start : start + _NUM_ROWS_PER_PART]


def _texts(values: "pd.Series[Any]") -> pa.Array:
    found = pa.array(values, pa.string(), from_pandas=True)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _places(deployments: pd.DataFrame) -> pd.DataFrame:
    """Site and season by deploymentID, missing where the package does not know."""
    sites = deployments["locationID"].fillna(deployments["locationName"])
    sites = sites.fillna(deployments["deploymentID"])
    seasons = tag_values(_texts(deployments["deploymentGroups"]), "season")
    columns = {"site": known(_texts(sites)).to_pandas(), "season": known(seasons).to_pandas()}
    return pd.DataFrame(columns).set_index(pd.Index(deployments["deploymentID"]))


def _exif(text: str) -> dict[str, Any]:
    """The tags of exifData, which some exporters put into groups; {} where it is no JSON object."""
    try:
        tags = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(tags, dict):
        return {}
    groups = [group for group in tags.values() if isinstance(group, dict)]
    return {name: value for group in (*groups, tags) for name, value in group.items()}


def _whole(exif: dict[str, Any], name: str, lowest: int) -> int | None:
    value = exif.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if lowest <= value <= _MAX_INT32 else None


def _text(exif: dict[str, Any], name: str) -> str | None:
    value = exif.get(name)
    return value if isinstance(value, str) and value else None


def _with_fractions(times: pa.Array, exif: list[dict[str, Any]]) -> pa.Array:
    """Times with the fraction of a second that EXIF keeps apart and the package may not write."""
    fractions = [str(one.get("SubSecTimeOriginal", "")) for one in exif]
    if not any(fractions):
        return times
    return pa.array(
        [
            re.sub(r"(?<=:\d\d:\d\d)(?=[zZ+-]|$)", f".{fraction}", time, count=1)
            if time and re.fullmatch(r"[0-9]{1,3}", fraction)
            else time
            for time, fraction in zip(times.to_pylist(), fractions, strict=True)
        ],
        pa.string(),
    )


def _add_annotations(rows: RowWriter, package: CamtrapPackage, observations: pd.DataFrame) -> None:
    for part in _parts(observations):
        tags = _texts(part["observationTags"])
        keys = _texts(part["mediaID"])
        of_sequence = pc.equal(pc.fill_null(tag_values(tags, "is_of_sequence"), ""), "true")
        rows.add_annotations(
            {
                "annotation_id": _annotation_ids(_texts(part["observationID"]), tags),
                "key": keys,
                "seq_id": _only_where(_texts(part["event"]), pc.is_null(keys)),
                "category": _categories(part, tags),
                "is_of_sequence": pc.or_(pc.is_null(keys), of_sequence),
                **{
                    ours: known(pc.coalesce(_texts(part[theirs]), tag_values(tags, ours)))
                    for ours, theirs in WORDS.items()
                },
                "subject_id": known(tag_values(tags, "subject_id")),
                **{name: _tag_numbers(tags, name) for name in BEHAVIOURS},
                "probability": pc.coalesce(
                    _numbers(package, part["classificationProbability"]),
                    _tag_numbers(tags, "probability"),
                ),
                **_boxes(package, part, tags),
            }
        )


def _annotation_ids(ids: pa.Array, tags: pa.Array) -> pa.Array:
    """The id of each observation, or the one that our own writer had to put into a tag."""
    found = pc.coalesce(tag_values(tags, "annotation_id"), ids)
    return _only_where(found, pc.not_equal(found, ""))


def _categories(part: pd.DataFrame, tags: pa.Array) -> pa.Array:
    of_type = _texts(part["observationType"].map(CATEGORIES))
    is_animal = pc.equal(of_type, CATEGORIES["animal"])
    names = pc.coalesce(_texts(part["scientificName"]), tag_values(tags, "category"), of_type)
    return pc.if_else(is_animal, names, of_type)


def _boxes(package: CamtrapPackage, part: pd.DataFrame, tags: pa.Array) -> dict[str, pa.Array]:
    columns = {
        ours: pc.coalesce(_numbers(package, part[theirs]), _tag_numbers(tags, ours))
        for ours, theirs in BBOX.items()
    }
    has_box = pc.is_valid(pc.coalesce(*columns.values()))
    in_px = pc.equal(pc.fill_null(tag_values(tags, "bbox_unit"), ""), "px")
    return columns | {"bbox_unit": _only_where(pc.if_else(in_px, "px", "share"), has_box)}


def _only_where(values: pa.Array, condition: pa.Array) -> pa.Array:
    return pc.if_else(condition, values, pa.scalar(None, pa.string()))


def _numbers(package: CamtrapPackage, values: "pd.Series[str]") -> pa.Array:
    """A column of numbers of observations."""
    texts = pc.utf8_trim_whitespace(_texts(values))
    is_bad = pc.fill_null(pc.invert(pc.match_substring_regex(texts, _NUMBER)), fill_value=False)
    if pc.any(is_bad).as_py():
        at = pc.index(is_bad, value=True).as_py()
        raise CatalogError(
            f"{package.label('observations')}, row {values.index[at]}: {values.name} is "
            f"{texts[at].as_py()!r}, but it must be a number: mend that row"
        )
    return pc.cast(texts, pa.float64())


# Tags: ``key:value``, joined by `` | ``. Our writer keeps in them what the format has no place for.


def tag_values(texts: pa.Array, key: str) -> pa.Array:
    """What each text of tags says of ``key``; null where it says nothing."""
    found = pc.extract_regex(texts, rf"(?:^|\|)\s*{key}:(?P<value>[^|]*)")
    values = pc.utf8_trim_whitespace(pc.struct_field(found, "value"))
    if not pc.any(pc.match_substring(values, "%")).as_py():
        return values
    return pa.array([one and unquote(one) for one in values.to_pylist()], pa.string())


def quoted(values: pa.Array) -> pa.Array:
    """The same texts, fit to be values of tags: ``tag_values`` gives them back."""
    if not pc.any(pc.match_substring_regex(values, r"[%|]|^[^!-~]|[^!-~]$")).as_py():
        return values
    return pa.array(
        [
            one and re.sub(r"[%|]|^\s+|\s+$", lambda found: quote(found[0], safe=""), one)
            for one in values.to_pylist()
        ],
        pa.string(),
    )


def _tag_numbers(tags: pa.Array, key: str) -> pa.Array:
    """Numbers of tags; a tag of that name with another value is not ours, and is null."""
    values = tag_values(tags, key)
    return pc.cast(_only_where(values, pc.match_substring_regex(values, _NUMBER)), pa.float64())
