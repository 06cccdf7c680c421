"""Frames, which are images with what their deployment and event say, and what is told of them."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.observations import BATCH_SIZE
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.tags import quoted, where

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
_DEPLOYMENT = ["deploymentID", "season", "site", "start", "end"]


def frames_of(images: pa.Table, utc_offset: str) -> pa.Table:
    """The images with their deployment, their time, and start and end of their event, as text.

    Args:
        images: with date and time; all of a sequence together.
        utc_offset: of the cameras' clocks.
    """
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


def deployments_of(frames: pa.Table) -> pa.Table:
    """One row per season and site, with its first and last time."""
    columns = (frames[name] for name in ("deploymentID", "season", "site", "datetime", "datetime"))
    return _merged(pa.table(list(columns), names=_DEPLOYMENT))


def merged_deployments(some: pa.Table, more: pa.Table) -> pa.Table:
    """The rows of both, those of one deployment in one."""
    return _merged(pa.concat_tables([some, more]))


def _merged(rows: pa.Table) -> pa.Table:
    how = [("season", "min"), ("site", "min"), ("start", "min"), ("end", "max")]
    groups = rows.group_by("deploymentID", use_threads=False).aggregate(how)
    return groups.rename_columns(_DEPLOYMENT)


def deployments_table(deployments: pa.Table, settings: CamtrapDpSettings) -> pa.Table:
    """The same in the columns of the format.

    Raises:
        ConfigError: a site has no coordinates.
    """
    groups = deployments.sort_by("deploymentID")
    sites = groups["site"].to_pylist()
    places = [settings.place(site) for site in sites]
    seasons = groups["season"]
    tags = pc.binary_join_element_wise("season:", quoted(seasons.combine_chunks()), "")
    return pa.table(
        {
            "deploymentID": groups["deploymentID"],
            "locationID": [site or None for site in sites],
            "locationName": [None if site else "unknown" for site in sites],
            "latitude": [latitude for latitude, _ in places],
            "longitude": [longitude for _, longitude in places],
            "deploymentStart": _time_texts(groups["start"], settings.utc_offset),
            "deploymentEnd": _time_texts(groups["end"], settings.utc_offset),
            "deploymentGroups": where(pc.not_equal(seasons, ""), tags),
        }
    )


def media_of(frames: pa.Table) -> Iterator[pa.Table]:
    """The rows of media, part by part."""
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
