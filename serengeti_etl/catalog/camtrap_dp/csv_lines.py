"""Rows of a Camtrap DP's tables, as its CSV files have them."""

import csv
import io
from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any

import pyarrow as pa

COLUMNS = {
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

_NUM_ROWS_AS_OBJECTS = 1 << 13  # of Python, which take ten times the memory


def csv_header(name: str) -> bytes:
    """The first line of the table ``name``."""
    return _lines([COLUMNS[name]])


def csv_lines(name: str, table: pa.Table) -> Iterator[bytes]:
    """The lines of a part of the table ``name``, some at a time; columns it lacks are empty."""
    for part in table.to_batches(max_chunksize=_NUM_ROWS_AS_OBJECTS):
        yield _lines(_rows(part, COLUMNS[name]))


def _lines(rows: "Iterator[tuple[Any, ...]] | Sequence[Sequence[str]]") -> bytes:
    text = io.StringIO(newline="")
    # Ends lines with CR LF, as the standard has it, and so quotes either wherever it occurs.
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _rows(part: pa.RecordBatch, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    have = set(part.schema.names)
    values = [part[one].to_pylist() if one in have else repeat(None) for one in columns]
    return zip(*values, strict=False)
