"""Predictions as rows, of photographs and of sequences."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from serengeti_etl.errors import ConfigError, ImageError
from serengeti_etl.train.predictions import Float64


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedImage:
    """What came of one photograph.

    Attributes:
        file_name: as the folder or list names it.
        seq_id: its sequence, given or made.
        site: where it was taken: given, or its folder.
        time: given, or by its camera; None if neither tells.
        probabilities_C: of each category; None where there is a failure.
        failure: why it could not be read; None if it could.
    """

    file_name: str
    seq_id: str
    site: str
    time: dt.datetime | None
    probabilities_C: Float64 | None
    failure: ImageError | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedSequence:
    """What came of one sequence.

    Attributes:
        seq_id: its name.
        num_images: its frames.
        num_failed: those of them that could not be read.
        probabilities_C: of each category; None where no frame could be read.
    """

    seq_id: str
    num_images: int
    num_failed: int
    probabilities_C: Float64 | None


_IMAGE_COLUMNS = {
    "file": pa.string(),
    "seq_id": pa.string(),
    "category": pa.string(),
    "probability": pa.float64(),
    "failure": pa.string(),
}
_SEQUENCE_COLUMNS = {
    "seq_id": pa.string(),
    "num_images": pa.int32(),
    "num_failed": pa.int32(),
    "category": pa.string(),
    "probability": pa.float64(),
}


def image_schema(classes: Sequence[str]) -> pa.Schema:
    """Of ``image_table``: file, sequence, likeliest category, failure, and all probabilities."""
    return _schema(_IMAGE_COLUMNS, classes)


def sequence_schema(classes: Sequence[str]) -> pa.Schema:
    """Of ``sequence_table``, likewise."""
    return _schema(_SEQUENCE_COLUMNS, classes)


def _schema(columns: Mapping[str, pa.DataType], classes: Sequence[str]) -> pa.Schema:
    taken = sorted(columns.keys() & set(classes))
    if taken:
        raise ConfigError(
            f"the model has a category {taken[0]!r}, which tables of predictions have another "
            "column of: write MegaDetector's JSON instead"
        )
    return pa.schema([*columns.items(), *((name, pa.float64()) for name in classes)])


def image_table(rows: Sequence[PredictedImage], classes: Sequence[str]) -> pa.Table:
    """One row per photograph; null where there is a failure."""
    values: dict[str, Sequence[object]] = {
        "file": [row.file_name for row in rows],
        "seq_id": [row.seq_id for row in rows],
        "failure": [None if row.failure is None else str(row.failure) for row in rows],
    }
    return _table(values, [row.probabilities_C for row in rows], image_schema(classes))


def sequence_table(rows: Sequence[PredictedSequence], classes: Sequence[str]) -> pa.Table:
    """One row per sequence; null where no frame could be read."""
    values: dict[str, Sequence[object]] = {
        "seq_id": [row.seq_id for row in rows],
        "num_images": [row.num_images for row in rows],
        "num_failed": [row.num_failed for row in rows],
    }
    return _table(values, [row.probabilities_C for row in rows], sequence_schema(classes))


def _table(
    values: Mapping[str, Sequence[object]], rows: Sequence[Float64 | None], schema: pa.Schema
) -> pa.Table:
    """The values, the likeliest category, and the last columns of the schema: probabilities."""
    num_classes = len(schema) - len(values) - 2
    classes = schema.names[-num_classes:]
    nothing = np.full(num_classes, np.nan)
    matrix_NC = np.array([nothing if row is None else row for row in rows])
    matrix_NC = matrix_NC.reshape(len(rows), num_classes)
    best = [None if row is None else int(row.argmax()) for row in rows]
    columns: dict[str, pa.Array] = {name: pa.array(column) for name, column in values.items()}
    columns["category"] = pa.array([None if at is None else classes[at] for at in best])
    columns["probability"] = _numbers(matrix_NC.max(axis=1, initial=-np.inf))
    columns |= {name: _numbers(matrix_NC[:, at]) for at, name in enumerate(classes)}
    return pa.table({name: columns[name].cast(schema.field(name).type) for name in schema.names})


def _numbers(values_N: Float64) -> pa.Array:
    # From pandas: NaN, which stands for no prediction, becomes null.
    return pa.array(np.ascontiguousarray(values_N), pa.float64(), from_pandas=True)
