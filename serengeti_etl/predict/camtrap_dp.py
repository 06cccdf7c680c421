"""Predictions as a Camtrap DP: observations by machine, with media and deployments around them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pyarrow as pa

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.stream import Append, camtrap_dp_stream, can_keep_ids
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, CATALOG_SCHEMA, image_keys
from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.storage import Store

THRESHOLD = 0.5
"""Probability from which a category is an observation; if none has it, the likeliest one is."""


@contextmanager
def camtrap_dp_output(
    store: Store, settings: CamtrapDpSettings, classes: Sequence[str], file_names: pa.Array
) -> Iterator[Callable[[Sequence[PredictedImage]], None]]:
    """A function that appends photographs to the package, which is there after the block.

    They are written when their sequence has ended, and not held. Photographs that could not be read
    have media and no classification; those without a time are left out, which the format does not
    allow.

    Args:
        store: folder or bucket prefix.
        settings: what photographs do not know.
        classes: categories in the order of the probabilities.
        file_names: of all photographs that may come; media are named by them.

    Raises:
        CatalogError: no photograph has a time.
        ConfigError: a site has no coordinates. In both cases nothing is written.
    """
    keeps_ids = can_keep_ids(image_keys(file_names))
    with camtrap_dp_stream(store, settings, keeps_ids=keeps_ids) as append:
        sequences = _Sequences(append, classes)
        yield sequences.append
        sequences.end()


class _Sequences:
    """Photographs that become rows of a catalog and annotations when their sequence has ended."""

    def __init__(self, append: Append, classes: Sequence[str]) -> None:
        self._append, self._classes = append, classes
        self._open: list[PredictedImage] = []

    def append(self, rows: Sequence[PredictedImage]) -> None:
        """Take some photographs, frames of a sequence side by side."""
        rows = [*self._open, *rows]
        num_ended = len(rows)
        while num_ended and rows[num_ended - 1].seq_id == rows[-1].seq_id:
            num_ended -= 1
        self._open = rows[num_ended:]
        self._write(rows[:num_ended])

    def end(self) -> None:
        """Write the last sequence."""
        self._write(self._open)

    def _write(self, rows: Sequence[PredictedImage]) -> None:
        keys = image_keys(pa.array([row.file_name for row in rows], pa.string())).to_pylist()
        images, annotations = [], []
        for _, frames in groupby(zip(keys, rows, strict=True), lambda one: one[1].seq_id):
            for number, (key, row) in enumerate(frames, 1):
                seen = _seen(row, self._classes)
                images.append(_image(key, row, number, [name for name, _ in seen]))
                annotations += [_annotation(key, row, name, p) for name, p in seen]
        self._append(
            pa.Table.from_pylist(images, CATALOG_SCHEMA),
            pa.Table.from_pylist(annotations, ANNOTATION_SCHEMA),
        )


def _image(key: str, row: PredictedImage, number: int, labels: list[str]) -> Mapping[str, Any]:
    return {
        "image_id": key,
        "seq_id": row.seq_id,
        "frame_num": number,
        "file_name": row.file_name,
        "site": row.site,
        "season": "",
        "datetime": row.time,
        "labels": sorted(labels),
    }


def _annotation(key: str, row: PredictedImage, name: str, p: float) -> Mapping[str, Any]:
    return {
        "annotation_id": f"{key}#{name}",
        "image_id": key,
        "seq_id": row.seq_id,
        "category": name,
        "is_of_sequence": False,
        "probability": p,
    }


def _seen(row: PredictedImage, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Categories above the threshold with their probability, or the likeliest one."""
    if row.probabilities_C is None:
        return []
    named = list(zip(classes, row.probabilities_C.tolist(), strict=True))
    above = [one for one in named if one[1] >= THRESHOLD]
    return above or [max(named, key=lambda one: one[1])]
