"""A catalog written as Camtrap DP 1.0.2: what ``read_camtrap_dp`` reads back to the same catalog.

What the format has no place for goes into ``observationTags`` and ``exifData``. Same tables, same
bytes.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.description import data_package
from serengeti_etl.catalog.camtrap_dp.observations import BATCH_SIZE, Observations, spool
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.tags import quoted, where
from serengeti_etl.catalog.camtrap_dp.words import DATA_PACKAGE
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

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
_NUM_ROWS_AS_OBJECTS = 1 << 13  # of Python, which take ten times the memory


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
        is_unique = spool(annotations, folder / "annotations.parquet")
        observations = Observations(frames, folder / "annotations.parquet", is_unique)
        _upload(output, folder, "deployments", [deployments])
        _upload(output, folder, "media", _media(frames))
        _upload(output, folder, "observations", observations.tables())
    output.write_json(DATA_PACKAGE, data_package(deployments, observations, settings))
    return int(images.num_rows - dated.num_rows)


def _upload(output: Store, folder: Path, name: str, tables: Iterable[pa.Table]) -> None:
    path = folder / f"{name}.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        # Ends lines with CR LF, as the standard has it, and so quotes either wherever it occurs.
        writer = csv.writer(file)
        writer.writerow(_COLUMNS[name])
        for table in tables:
            for part in table.to_batches(max_chunksize=_NUM_ROWS_AS_OBJECTS):
                writer.writerows(_rows(part, _COLUMNS[name]))
    output.upload(path, path.name)


def _rows(part: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    have = set(part.schema.names)
    values = [part[one].to_pylist() if one in have else repeat(None) for one in columns]
    return zip(*values, strict=False)


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
            "deploymentGroups": where(pc.not_equal(seasons, ""), tags),
        }
    )


def _media(frames: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, frames.num_rows, BATCH_SIZE):
        part = frames.slice(start, BATCH_SIZE)
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
