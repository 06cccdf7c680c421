"""Predictions as a Camtrap DP: observations by machine, with media and deployments around them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.writer import write_camtrap_dp
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, CATALOG_SCHEMA, image_keys
from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.storage import Store

THRESHOLD = 0.5
"""Probability from which a category is an observation; if none has it, the likeliest one is."""


@contextmanager
def camtrap_dp_output(
    store: Store, settings: CamtrapDpSettings, classes: Sequence[str]
) -> Iterator[Callable[[Sequence[PredictedImage]], None]]:
    """A function that appends photographs to the package, which is there after the block.

    The format names deployments first, with their times, so all rows are held until then, about
    300 bytes each. Photographs that could not be read have media and no classification; those
    without a time are left out, which the format does not allow.

    Raises:
        CatalogError: no photograph has a time.
        ConfigError: a site has no coordinates. In both cases nothing is written.
    """
    parts = _Parts(classes)
    yield parts.append
    images = pa.Table.from_batches(parts.images, CATALOG_SCHEMA)
    write_camtrap_dp(images, parts.annotations, store, settings)


class _Parts:
    """Rows of a catalog and annotations of it, as they come in."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self._num_frames: dict[str, int] = {}
        self.images: list[pa.RecordBatch] = []
        self.annotations: list[pa.RecordBatch] = []

    def append(self, rows: Sequence[PredictedImage]) -> None:
        """Take some photographs, frames of a sequence side by side."""
        keys = image_keys(pa.array([row.file_name for row in rows], pa.string())).to_pylist()
        images, annotations = [], []
        for key, row in zip(keys, rows, strict=True):
            seen = _seen(row, self._classes)
            images.append(self._image(key, row, [name for name, _ in seen]))
            annotations += [
                {
                    "annotation_id": f"{key}#{name}",
                    "image_id": key,
                    "seq_id": row.seq_id,
                    "category": name,
                    "is_of_sequence": False,
                    "probability": p,
                }
                for name, p in seen
            ]
        self.images.append(pa.RecordBatch.from_pylist(images, CATALOG_SCHEMA))
        self.annotations.append(pa.RecordBatch.from_pylist(annotations, ANNOTATION_SCHEMA))

    def _image(self, key: str, row: PredictedImage, labels: list[str]) -> Mapping[str, Any]:
        # Of the last sequence alone: its frames stand side by side.
        self._num_frames = {row.seq_id: self._num_frames.get(row.seq_id, 0) + 1}
        return {
            "image_id": key,
            "seq_id": row.seq_id,
            "frame_num": self._num_frames[row.seq_id],
            "file_name": row.file_name,
            "site": row.site,
            "season": "",
            "datetime": row.time,
            "labels": sorted(labels),
        }


def _seen(row: PredictedImage, classes: Sequence[str]) -> list[tuple[str, float]]:
    """Categories above the threshold with their probability, or the likeliest one."""
    if row.probabilities_C is None:
        return []
    named = list(zip(classes, row.probabilities_C.tolist(), strict=True))
    above = [one for one in named if one[1] >= THRESHOLD]
    return above or [max(named, key=lambda one: one[1])]
