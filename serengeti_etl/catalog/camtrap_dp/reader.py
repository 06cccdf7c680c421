"""Camtrap DP read: observations speak of one medium or of an event, which is a sequence."""

import json
import re
from collections.abc import Iterator
from heapq import nsmallest
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.events import events_of, has_bad_time, name_events
from serengeti_etl.catalog.camtrap_dp.package import (
    NUM_ROWS_PER_PART,
    CamtrapPackage,
    open_package,
    read_table,
    refuse_bad_ids,
    refuse_bad_types,
)
from serengeti_etl.catalog.camtrap_dp.tags import (
    NUMBER,
    tag_numbers,
    tag_values,
    text_column,
    where,
)
from serengeti_etl.catalog.camtrap_dp.words import BBOX, CATEGORIES, TABLES, UNCLASSIFIED, WORDS
from serengeti_etl.catalog.checks import Finding
from serengeti_etl.catalog.folders import IMAGE_EXTENSIONS
from serengeti_etl.catalog.rows import RowWriter, known
from serengeti_etl.catalog.table import BEHAVIOURS, image_keys
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

_MAX_INT32 = 2**31 - 1


def read_camtrap_dp(source: Store, name: str, rows: RowWriter) -> tuple[Finding, ...]:
    """What is odd in a Camtrap DP, after putting its images and labels into ``rows``.

    A medium's sequence is the event of its own observation; else the event of its deployment
    during which it was taken, the latest to begin; else what a 0.1 package calls its sequence.

    Raises:
        CatalogError: it is not such a package, is of an unknown version, is cut, repeats an id, or
            names a deployment that it does not list.
    """
    package = open_package(source, name)
    deployments, media, observations = (read_table(package, table) for table in TABLES)
    refuse_bad_ids(package, deployments, media, observations)
    refuse_bad_types(package, observations)
    name_events(media, observations)
    media["event"] = events_of(media, observations)
    is_image = _are_images(media)
    _add_images(rows, media[is_image], deployments)
    is_of_nothing = observations["mediaID"].isna() & observations["event"].isna()
    is_label = (observations["observationType"] != UNCLASSIFIED) & ~is_of_nothing
    _add_annotations(rows, package, observations[is_label])
    return (
        *_finding(_NOT_IMAGE, media.loc[~is_image, "filePath"]),
        *_finding(_OF_NOTHING, observations.loc[is_of_nothing, "observationID"]),
        *_finding(_BAD_TIME, observations.loc[has_bad_time(observations), "observationID"]),
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
        ids = text_column(part["mediaID"])
        rows.add_images(
            {
                "key": ids,
                "image_id": image_keys(ids),
                "seq_id": text_column(part["event"]),
                "frame_num": pa.array([_whole(one, "frame_num", 0) for one in exif], pa.int32()),
                "file_name": text_column(part["filePath"]),
                "site": text_column(part["deploymentID"].map(places["site"])),
                "season": text_column(part["deploymentID"].map(places["season"])),
                "datetime": _with_fractions(text_column(part["timestamp"]), exif),
                "given_split": pa.array([_text(one, "given_split") for one in exif], pa.string()),
                "width": pa.array([_whole(one, "ImageWidth", 1) for one in exif], pa.int32()),
                "height": pa.array([_whole(one, "ImageHeight", 1) for one in exif], pa.int32()),
                "content_hash": pa.array([_text(one, "content_hash") for one in exif], pa.string()),
            }
        )


def _parts(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(frame), NUM_ROWS_PER_PART):
        yield frame.iloc[start : start + NUM_ROWS_PER_PART]


def _places(deployments: pd.DataFrame) -> pd.DataFrame:
    """Site and season by deploymentID, missing where the package does not know."""
    sites = deployments["locationID"].fillna(deployments["locationName"])
    sites = sites.fillna(deployments["deploymentID"])
    seasons = tag_values(text_column(deployments["deploymentGroups"]), "season")
    columns = {"site": known(text_column(sites)).to_pandas(), "season": known(seasons).to_pandas()}
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
        tags = text_column(part["observationTags"])
        keys = text_column(part["mediaID"])
        of_sequence = pc.equal(pc.fill_null(tag_values(tags, "is_of_sequence"), ""), "true")
        rows.add_annotations(
            {
                "annotation_id": _annotation_ids(text_column(part["observationID"]), tags),
                "key": keys,
                "seq_id": where(pc.is_null(keys), text_column(part["event"])),
                "category": _categories(part, tags),
                "is_of_sequence": pc.or_(pc.is_null(keys), of_sequence),
                **{
                    ours: known(pc.coalesce(text_column(part[theirs]), tag_values(tags, ours)))
                    for ours, theirs in WORDS.items()
                },
                "subject_id": known(tag_values(tags, "subject_id")),
                **{name: tag_numbers(tags, name) for name in BEHAVIOURS},
                "probability": pc.coalesce(
                    _numbers(package, part["classificationProbability"]),
                    tag_numbers(tags, "probability"),
                ),
                **_boxes(package, part, tags),
            }
        )


def _annotation_ids(ids: pa.Array, tags: pa.Array) -> pa.Array:
    """The id of each observation, or the one that our own writer had to put into a tag."""
    found = pc.coalesce(tag_values(tags, "annotation_id"), ids)
    return where(pc.not_equal(found, ""), found)


def _categories(part: pd.DataFrame, tags: pa.Array) -> pa.Array:
    of_type = text_column(part["observationType"].map(CATEGORIES))
    is_animal = pc.equal(of_type, CATEGORIES["animal"])
    names = pc.coalesce(text_column(part["scientificName"]), tag_values(tags, "category"), of_type)
    return pc.if_else(is_animal, names, of_type)


def _boxes(package: CamtrapPackage, part: pd.DataFrame, tags: pa.Array) -> dict[str, pa.Array]:
    columns = {
        ours: pc.coalesce(_numbers(package, part[theirs]), tag_numbers(tags, ours))
        for ours, theirs in BBOX.items()
    }
    has_box = pc.is_valid(pc.coalesce(*columns.values()))
    in_px = pc.equal(pc.fill_null(tag_values(tags, "bbox_unit"), ""), "px")
    return columns | {"bbox_unit": where(has_box, pc.if_else(in_px, "px", "share"))}


def _numbers(package: CamtrapPackage, values: "pd.Series[str]") -> pa.Array:
    """A column of numbers of observations."""
    texts = pc.utf8_trim_whitespace(text_column(values))
    is_bad = pc.fill_null(pc.invert(pc.match_substring_regex(texts, NUMBER)), fill_value=False)
    if pc.any(is_bad).as_py():
        at = pc.index(is_bad, value=True).as_py()
        raise CatalogError(
            f"{package.label('observations')}, row {values.index[at]}: {values.name} is "
            f"{texts[at].as_py()!r}, but it must be a number: mend that row"
        )
    return pc.cast(texts, pa.float64())
