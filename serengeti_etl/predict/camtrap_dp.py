"""Predictions as a Camtrap DP: observations by machine, with media and deployments around them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.stream import Append, camtrap_dp_stream, can_keep_ids
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, CATALOG_SCHEMA, image_keys
from serengeti_etl.predict.gathered import Gathered
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
        gathered = Gathered()
        yield lambda rows: _append_sequences(append, gathered.add(rows), classes)
        _append_sequences(append, gathered.rest(), classes)


def _append_sequences(
    append: Append, sequences: Sequence[Sequence[PredictedImage]], classes: Sequence[str]
) -> None:
    """Append whole sequences as rows of a catalog and annotations."""
    names = [row.file_name for frames in sequences for row in frames]
    keys = iter(image_keys(pa.array(names, pa.string())).to_pylist())
    images, annotations = [], []
    for frames in sequences:
        for number, row in enumerate(frames, 1):
            key, seen = next(keys), _seen(row, classes)
            images.append(_image(key, row, number, [name for name, _ in seen]))
            annotations += [_annotation(key, row, name, p) for name, p in seen]
    append(
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
