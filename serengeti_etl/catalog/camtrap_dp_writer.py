"""A catalog written as Camtrap DP 1.0.2: what ``read_camtrap_dp`` reads back to the same catalog.

What the format has no place for goes into ``observationTags`` and ``exifData``. Same tables, same
bytes.
"""

import csv
import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.catalog.camtrap_dp import (
    BBOX,
    CATEGORIES,
    DATA_PACKAGE,
    MISSING,
    TABLES,
    TAG_SEPARATOR,
    UNCLASSIFIED,
    WORDS,
    quoted,
)
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, BEHAVIOURS
from serengeti_etl.errors import CatalogError, ConfigError, require
from serengeti_etl.storage import Store

_ADDRESS = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2"
_COLUMNS = {
    "deployments": (
        *("deploymentID", "locationID", "locationName", "latitude", "longitude"),
        *("coordinateUncertainty", "deploymentStart", "deploymentEnd", "setupBy", "cameraID"),
        *("cameraModel", "cameraDelay", "cameraHeight", "cameraDepth", "cameraTilt"),
        *("cameraHeading", "detectionDistance", "timestampIssues", "baitUse", "featureType"),
        *("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
    ),
    "media": (
        *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic"),
        *("fileName", "fileMediatype", "exifData", "favorite", "mediaComments"),
    ),
    "observations": (
        *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd"),
        *("observationLevel", "observationType", "cameraSetupType", "scientificName", "count"),
        *("lifeStage", "sex", "behavior", "individualID", "individualPositionRadius"),
        *("individualPositionAngle", "individualSpeed", "bboxX", "bboxY", "bboxWidth"),
        *("bboxHeight", "classificationMethod", "classifiedBy", "classificationTimestamp"),
        *("classificationProbability", "observationTags", "observationComments"),
    ),
}
"""All columns of 1.0.2, in its order; those of which we know nothing are empty."""

_FITTING = {
    "count": r"^[1-9][0-9]*$",
    "life_stage": "^(adult|subadult|juvenile)$",
    "sex": "^(female|male)$",
}
"""What a column of words may hold; the others hold anything but how a package writes nothing."""

_MEDIATYPES = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
    ".mpo": "image/mpo",
}
_JPEG = "image/jpeg"
_HUMAN = "human"
_MADE_ID = "observation-"
_SMALLEST_SIDE = 1e-15  # of a box, by the schema
_BATCH_SIZE = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class CamtrapDpSettings:
    """What Camtrap DP demands and a catalog does not know.

    Attributes:
        name: of the package; what its alphabet lacks becomes ``-``.
        title: of the package and its project, for people.
        created: when it was made, ISO with zone. Given, so that the same catalog gives the same
            bytes.
        utc_offset: of the cameras' clocks, such as ``+03:00``, or ``Z``.
        latitude: of sites that ``site_places`` does not list, in degrees; None where there are
            none.
        longitude: likewise.
        site_places: latitude and longitude of each site, in degrees.
        contributor: who made the package.
        licence: of labels and photographs, such as ``CC-BY-4.0``; "" says nothing.
        sampling_design: how sites were chosen, in the words of Camtrap DP.
    """

    name: str
    title: str
    created: str
    utc_offset: str = "+03:00"
    latitude: float | None = None
    longitude: float | None = None
    site_places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    contributor: str = "serengeti-etl"
    licence: str = ""
    sampling_design: str = "systematicRandom"

    def __post_init__(self) -> None:
        offset = self.utc_offset
        is_offset = re.fullmatch(r"Z|[+-][01][0-9]:[0-5][0-9]", offset) is not None
        require(is_offset, "utc_offset", offset, "of the form +03:00, or Z")
        is_pair = (self.latitude is None) == (self.longitude is None)
        require(is_pair, "longitude", self.longitude, "given where latitude is, and only there")
        if self.latitude is not None and self.longitude is not None:
            _require_place("latitude, longitude", (self.latitude, self.longitude))
        for site, place in self.site_places.items():
            _require_place(f"place of site {site!r}", place)
        require(_is_moment(self.created), "created", self.created, "ISO, as 2024-05-01T12:00:00Z")

    def place(self, site: str) -> tuple[float, float]:
        """Latitude and longitude of a site, in degrees.

        Raises:
            ConfigError: none is given for it.
        """
        if site in self.site_places:
            return self.site_places[site]
        if self.latitude is None or self.longitude is None:
            raise ConfigError(
                f"site {site!r} has no coordinates, which Camtrap DP demands: give --latitude and "
                "--longitude for all sites, or list each with --sites"
            )
        return self.latitude, self.longitude


def _require_place(name: str, place: tuple[float, float]) -> None:
    latitude, longitude = place
    is_on_earth = -90 <= latitude <= 90 and -180 <= longitude <= 180  # noqa: PLR2004
    require(is_on_earth, name, place, "degrees within ±90 and ±180")


def _is_moment(text: str) -> bool:
    try:
        return dt.datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def write_camtrap_dp(
    images: pa.Table,
    annotations: Iterable[pa.RecordBatch],
    output: Store,
    settings: CamtrapDpSettings,
) -> int:
    """Number of images left out, after writing the rest as a Camtrap DP at ``output``.

    Left out are those without date and time, and their annotations: the format demands a time.

    Args:
        images: rows of ``CATALOG_SCHEMA``.
        annotations: rows of ``ANNOTATION_SCHEMA``, in parts.
        output: folder or bucket prefix for three tables and, last, datapackage.json.
        settings: what a catalog does not know.

    Raises:
        CatalogError: no image has a date and time.
        ConfigError: a site has no coordinates. In both cases nothing is written.
    """
    dated = images.filter(pc.is_valid(images["datetime"])).combine_chunks()
    if dated.num_rows == 0:
        raise CatalogError(
            f"none of {images.num_rows} images has a date and time, which Camtrap DP demands of "
            "each: export them as coco"
        )
    frames = _frames(dated, settings.utc_offset)
    deployments = _deployments(frames, settings)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        is_unique = _spool(annotations, folder / "annotations.parquet")
        observations = _Observations(frames, folder / "annotations.parquet", is_unique)
        _upload(output, folder, "deployments", [deployments])
        _upload(output, folder, "media", _media(frames))
        _upload(output, folder, "observations", observations.tables())
    output.write_json(DATA_PACKAGE, _data_package(deployments, observations, settings))
    return int(images.num_rows - dated.num_rows)


def _upload(output: Store, folder: Path, name: str, tables: Iterable[pa.Table]) -> None:
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        # Ends lines with CR LF, as the standard has it, and so quotes either wherever it occurs.
        writer = csv.writer(file)
        writer.writerow(_COLUMNS[name])
        for table in tables:
            nulls = [None] * table.num_rows
            have = set(table.column_names)
            columns = [table[one].to_pylist() if one in have else nulls for one in _COLUMNS[name]]
            writer.writerows(zip(*columns, strict=True))
    output.upload(path, path.name)


# Frames: images with what their deployment and event say.


def _frames(images: pa.Table, utc_offset: str) -> pa.Table:
    """The images with their deployment, their time, and start and end of their event, as text."""
    table = images.append_column("deploymentID", _deployment_ids(images))
    groups = table.group_by("seq_id", use_threads=False).aggregate(
        [("datetime", "min"), ("datetime", "max"), ("deploymentID", "count_distinct")]
    )
    at = pc.index_in(table["seq_id"], value_set=groups["seq_id"])
    own = groups.take(at)
    columns = {
        "timestamp": _time_texts(table["datetime"], utc_offset),
        "eventStart": _time_texts(own["datetime_min"], utc_offset),
        "eventEnd": _time_texts(own["datetime_max"], utc_offset),
        "is_split": pc.greater(own["deploymentID_count_distinct"], 1),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table.combine_chunks()


def _deployment_ids(images: pa.Table) -> pa.Array:
    """``season#site``, or the site alone where there is no season: one id per pair of both."""
    # "#" in a name must not look like the one between two names.
    season, site = (
        pc.replace_substring(pc.replace_substring(images[name], "%", "%25"), "#", "%23")
        for name in ("season", "site")
    )
    both = pc.binary_join_element_wise(season, site, "#")
    is_alone = pc.and_(pc.equal(season, ""), pc.not_equal(site, ""))
    return pc.if_else(is_alone, site, both)


def _time_texts(times: pa.Array, utc_offset: str) -> pa.Array:
    # Whole seconds: the format has no others.
    seconds = pc.cast(pc.floor_temporal(times, unit="second"), pa.timestamp("s"))
    return pc.binary_join_element_wise(pc.strftime(seconds, "%Y-%m-%dT%H:%M:%S"), utc_offset, "")


def _deployments(frames: pa.Table, settings: CamtrapDpSettings) -> pa.Table:
    """One row per season and site; its columns are the format's."""
    groups = frames.group_by("deploymentID", use_threads=False).aggregate(
        [("season", "min"), ("site", "min"), ("datetime", "min"), ("datetime", "max")]
    )
    groups = groups.sort_by("deploymentID")
    sites = groups["site_min"].to_pylist()
    places = [settings.place(site) for site in sites]
    seasons = groups["season_min"]
    tags = pc.binary_join_element_wise("season:", quoted(seasons.combine_chunks()), "")
    return pa.table(
        {
            "deploymentID": groups["deploymentID"],
            "locationID": [site or None for site in sites],
            "locationName": [None if site else "unknown" for site in sites],
            "latitude": [latitude for latitude, _ in places],
            "longitude": [longitude for _, longitude in places],
            "deploymentStart": _time_texts(groups["datetime_min"], settings.utc_offset),
            "deploymentEnd": _time_texts(groups["datetime_max"], settings.utc_offset),
            "deploymentGroups": _where(pc.not_equal(seasons, ""), tags),
        }
    )


def _where(condition: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(pc.fill_null(condition, fill_value=False), values, None)


def _media(frames: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, frames.num_rows, _BATCH_SIZE):
        part = frames.slice(start, _BATCH_SIZE)
        files = part["file_name"].to_pylist()
        yield pa.table(
            {
                "mediaID": part["image_id"],
                "deploymentID": part["deploymentID"],
                "timestamp": part["timestamp"],
                "filePath": part["file_name"],
                "filePublic": ["false" if _HUMAN in one else "true" for one in _labels(part)],
                "fileName": [file.rpartition("/")[-1] for file in files],
                "fileMediatype": [_mediatype(file) for file in files],
                "exifData": _exif(part),
            }
        )


def _labels(part: pa.Table) -> list[list[str]]:
    labels: list[list[str]] = part["labels"].to_pylist()
    return labels


def _mediatype(file: str) -> str:
    return _MEDIATYPES.get(file[file.rfind(".") :].lower(), _JPEG)


def _exif(part: pa.Table) -> list[str]:
    """JSON of what the table has no column for: frame, size, fraction of the second, and so on."""
    names = {
        "frame_num": "frame_num",
        "width": "ImageWidth",
        "height": "ImageHeight",
        "given_split": "given_split",
        "content_hash": "content_hash",
    }
    rows = part.select(list(names)).rename_columns(list(names.values())).to_pylist()
    fractions = pc.millisecond(part["datetime"]).to_pylist()
    texts = []
    for row, fraction in zip(rows, fractions, strict=True):
        known = {name: value for name, value in row.items() if value is not None}
        if fraction:
            known["SubSecTimeOriginal"] = f"{fraction:03d}"
        texts.append(json.dumps(known, ensure_ascii=False))
    return texts


# Observations: annotations, and images of which nobody said anything.


def _spool(annotations: Iterable[pa.RecordBatch], path: Path) -> bool:
    """True when annotation ids can be ids of observations, after putting all rows at ``path``."""
    hashes = [np.empty(0, np.uint64)]
    is_fit = True
    with pq.ParquetWriter(path, ANNOTATION_SCHEMA, compression="zstd") as writer:
        for batch in annotations:
            writer.write_batch(batch)
            ids = batch["annotation_id"]
            is_bad = pc.or_(
                pc.is_in(ids, value_set=pa.array([None, *MISSING], pa.string())),
                pc.fill_null(pc.starts_with(ids, _MADE_ID), fill_value=False),
            )
            is_fit = is_fit and not pc.any(is_bad).as_py()
            # Eight bytes per id instead of its text; two that collide cost no more than the ids.
            hashes.append(pd.util.hash_array(np.asarray(ids.to_pylist(), dtype=object)))
    everything = np.concatenate(hashes)
    return is_fit and len(np.unique(everything)) == len(everything)


class _Observations:
    """Rows of observations, and what they turn out to hold.

    Args:
        frames: images, as ``_frames`` gives them.
        path: Parquet of annotations.
        keeps_ids: True where ids of annotations are unique; otherwise ids are made, and those of
            the annotations go into tags.
    """

    def __init__(self, frames: pa.Table, path: Path, keeps_ids: bool) -> None:  # noqa: FBT001
        self._frames = frames
        self._path = path
        self._keeps_ids = keeps_ids
        self._is_said = np.zeros(frames.num_rows, bool)
        self._num_made = 0
        self.names: set[str] = set()
        self.levels: set[str] = set()
        self.has_individuals = False

    def tables(self) -> Iterator[pa.Table]:
        """All rows, part by part."""
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_SIZE, use_threads=False):
                yield from self._noted(self._of_annotations(pa.Table.from_batches([batch])))
        unsaid = self._frames.filter(pa.array(~self._is_said))
        for start in range(0, unsaid.num_rows, _BATCH_SIZE):
            yield from self._noted(self._unclassified(unsaid.slice(start, _BATCH_SIZE)))

    def _noted(self, table: pa.Table) -> Iterator[pa.Table]:
        if table.num_rows:
            self.names |= set(table["scientificName"].unique().drop_null().to_pylist())
            self.levels |= set(table["observationLevel"].unique().to_pylist())
            self.has_individuals |= table["individualID"].null_count < table.num_rows
            yield table

    def _of_annotations(self, rows: pa.Table) -> pa.Table:
        rows, at = self._with_frames(rows)
        own = self._frames.take(at)
        of_image = pc.is_valid(rows["image_id"])
        self._is_said[at.filter(of_image).to_numpy()] = True
        words, word_tags = _words(rows)
        boxes, box_tags = _boxes(rows, own)
        tags = word_tags | box_tags | self._own_tags(rows, own)
        is_machine = pc.is_valid(words["classificationProbability"])
        ids = rows["annotation_id"] if self._keeps_ids else self._made_ids(rows.num_rows)
        return pa.table(
            self._event(own)
            | words
            | boxes
            | {
                "observationID": ids,
                "mediaID": rows["image_id"],
                "observationLevel": pc.if_else(of_image, "media", "event"),
                "classificationMethod": pc.if_else(is_machine, "machine", None),
                "observationTags": _joined(tags),
            }
        )

    def _with_frames(self, rows: pa.Table) -> tuple[pa.Table, pa.Array]:
        """The rows of images that are written, and the place of each one's frame.

        Where a row speaks of a sequence, that is the first frame of the sequence.
        """
        at = pc.index_in(rows["image_id"], value_set=self._frames["image_id"])
        of_image = pc.is_valid(rows["image_id"])
        if not pc.all(of_image).as_py():
            first = pc.index_in(rows["seq_id"], value_set=self._frames["seq_id"])
            at = pc.if_else(of_image, at, first)
        is_there = pc.is_valid(at)
        return rows.filter(is_there), at.filter(is_there).combine_chunks()

    def _event(self, own: pa.Table) -> dict[str, pa.Array]:
        names = ("deploymentID", "eventStart", "eventEnd")
        return {name: own[name] for name in names} | {"eventID": own["seq_id"]}

    def _own_tags(self, rows: pa.Table, own: pa.Table) -> dict[str, pa.Array]:
        """Tags that say what the reader could not tell from the columns."""
        is_copied = pc.and_(rows["is_of_sequence"], pc.is_valid(rows["image_id"]))
        tags = {
            "is_of_sequence": pc.if_else(is_copied, "true", None),
            # Of a sequence at two sites, which the format does not have.
            "seq_id": _where(own["is_split"], own["seq_id"]),
        }
        if not self._keeps_ids:
            tags["annotation_id"] = pc.fill_null(rows["annotation_id"], "")
        return tags

    def _unclassified(self, frames: pa.Table) -> pa.Table:
        tags = {"seq_id": _where(frames["is_split"], frames["seq_id"])}
        nothing = pa.nulls(frames.num_rows, pa.string())
        return pa.table(
            self._event(frames)
            | {
                "observationID": self._made_ids(frames.num_rows),
                "mediaID": frames["image_id"],
                "observationLevel": pa.repeat("media", frames.num_rows),
                "observationType": pa.repeat(UNCLASSIFIED, frames.num_rows),
                "scientificName": nothing,
                "individualID": nothing,
                "observationTags": _joined(tags),
            }
        )

    def _made_ids(self, num: int) -> list[str]:
        first = self._num_made + 1
        self._num_made += num
        return [f"{_MADE_ID}{number}" for number in range(first, first + num)]


Columns = dict[str, pa.Array]


def _words(rows: pa.Table) -> tuple[Columns, Columns]:
    """Columns of what is seen, and tags of what does not fit into them."""
    columns, tags = _categories(rows["category"])
    for ours, theirs in WORDS.items():
        values = rows[ours]
        fits = pc.invert(pc.is_in(values, value_set=pa.array(MISSING)))
        if ours in _FITTING:
            fits = pc.match_substring_regex(values, _FITTING[ours])
        columns[theirs] = _where(fits, values)
        tags[ours] = _where(pc.invert(fits), values)
    tags["subject_id"] = rows["subject_id"]
    tags |= {name: _number_texts(rows[name]) for name in BEHAVIOURS}
    probability = rows["probability"]
    is_share = _is_within(probability, 0)
    columns["classificationProbability"] = _where(is_share, _number_texts(probability))
    tags["probability"] = _where(pc.invert(is_share), _number_texts(probability))
    return columns, tags


def _categories(categories: pa.Array) -> tuple[Columns, Columns]:
    types = pa.array(list(CATEGORIES))
    at = pc.index_in(categories, value_set=pa.array(list(CATEGORIES.values())))
    is_name = pc.is_null(at)
    # A category that is spelt like "no value" would be lost as a scientific name.
    is_lost = pc.is_in(categories, value_set=pa.array(MISSING))
    names = _where(pc.and_(is_name, pc.invert(is_lost)), categories)
    columns = {
        "observationType": pc.fill_null(types.take(at), "animal"),
        "scientificName": names,
    }
    return columns, {"category": _where(is_lost, categories)}


def _number_texts(values: pa.Array) -> pa.Array:
    return pc.cast(values, pa.string())


def _is_within(values: pa.Array, lowest: float) -> pa.Array:
    """True where a number is from ``lowest`` to 1, false where it is not, or is missing."""
    inside = pc.and_(pc.greater_equal(values, lowest), pc.less_equal(values, 1))
    return pc.fill_null(inside, fill_value=False)


def _boxes(rows: pa.Table, own: pa.Table) -> tuple[Columns, Columns]:
    """Boxes as shares of the photograph's sides; as tags where its size is not known."""
    in_px = pc.fill_null(pc.equal(rows["bbox_unit"], "px"), fill_value=False)
    fits = pa.array(np.ones(rows.num_rows, bool))
    shares = {}
    for name in BBOX:
        side = "width" if name in ("bbox_x", "bbox_width") else "height"
        length = pc.cast(own[side], pa.float64())
        shares[name] = pc.if_else(in_px, pc.divide(rows[name], length), rows[name])
        lowest = _SMALLEST_SIDE if name in ("bbox_width", "bbox_height") else 0
        fits = pc.and_(fits, _is_within(shares[name], lowest))
    columns = {BBOX[name]: _where(fits, _number_texts(shares[name])) for name in BBOX}
    is_left = pc.invert(fits)
    tags = {name: _where(is_left, _number_texts(rows[name])) for name in BBOX}
    return columns, tags | {"bbox_unit": _where(is_left, rows["bbox_unit"])}


def _joined(tags: Columns) -> pa.Array:
    """``key:value`` of every tag that is there, in the order of their keys; null where none is."""
    # Not by null_handling="skip", which in pyarrow 26 drops rows in which all are null.
    texts = [
        pc.fill_null(pc.binary_join_element_wise(f"{TAG_SEPARATOR}{key}:", quoted(values), ""), "")
        for key, values in sorted(tags.items())
    ]
    joined = pc.binary_join_element_wise(*texts, "")
    bare = pc.utf8_slice_codeunits(joined, len(TAG_SEPARATOR))
    return _where(pc.not_equal(joined, ""), bare)


def _data_package(
    deployments: pa.Table, observations: _Observations, settings: CamtrapDpSettings
) -> dict[str, Any]:
    """What datapackage.json says."""
    scopes = ("data", "media") if settings.licence else ()
    licences = [{"name": settings.licence, "scope": scope} for scope in scopes]
    starts, ends = deployments["deploymentStart"], deployments["deploymentEnd"]
    description = {
        "profile": f"{_ADDRESS}/camtrap-dp-profile.json",
        "name": re.sub(r"[^a-z0-9._/-]+", "-", settings.name.lower()) or "dataset",
        "title": settings.title,
        "created": settings.created,
        "contributors": [{"title": settings.contributor, "role": "contributor"}],
        "resources": [_resource(table) for table in TABLES],
        "project": {
            "title": settings.title,
            "samplingDesign": settings.sampling_design,
            "captureMethod": ["activityDetection"],
            "individualAnimals": observations.has_individuals,
            "observationLevel": sorted(observations.levels),
        },
        "spatial": _spatial(deployments),
        "temporal": {"start": pc.min(starts).as_py()[:10], "end": pc.max(ends).as_py()[:10]},
        "taxonomic": [{"scientificName": name} for name in sorted(observations.names)],
    }
    return description | ({"licenses": licences} if licences else {})


def _resource(table: str) -> dict[str, str]:
    return {
        "name": table,
        "path": f"{table}.csv",
        "profile": "tabular-data-resource",
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "schema": f"{_ADDRESS}/{table}-table-schema.json",
    }


def _spatial(deployments: pa.Table) -> dict[str, Any]:
    """The places of all deployments, as GeoJSON has them: longitude first."""
    sides = (deployments[name].to_pylist() for name in ("longitude", "latitude"))
    points = sorted(set(zip(*sides, strict=True)))
    return {"type": "MultiPoint", "coordinates": [list(point) for point in points]}
