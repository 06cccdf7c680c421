"""Predictions as MegaDetector's batch results, format 1.6: opens in Timelapse and AddaxAI.

Those programs expect boxes. A whole photograph is one box around all of it, an ``animal`` with the
probability that there is something, classified as the model does.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.predict.served import ModelConfig
from serengeti_etl.storage import Store

FORMAT_VERSION = "1.6"

MIN_CONFIDENCE = 0.005
"""Detections below are left out, as MegaDetector itself does: then the list is empty."""

MAX_CLASSIFICATIONS = 5
"""Likeliest categories that are written of a photograph."""

_ANIMAL = "1"
_NUM_DIGITS = 4


@contextmanager
def megadetector_output(
    store: Store, name: str, config: ModelConfig
) -> Iterator[Callable[[Sequence[PredictedImage]], None]]:
    """A function that appends photographs to the JSON ``name``, which is there after the block.

    Raises:
        OSError: the store failed; nothing is visible under ``name``.
    """
    separator = b"\n"
    with store.create(name) as append:

        def append_rows(rows: Sequence[PredictedImage]) -> None:
            nonlocal separator
            for row in rows:
                append(separator + json.dumps(_image(row, config), ensure_ascii=False).encode())
                separator = b",\n"

        append(_head(config))
        yield append_rows
        append(b"\n]}\n")


def _head(config: ModelConfig) -> bytes:
    what = f"serengeti-etl, {config.model} on whole photographs"
    head = {
        "info": {"format_version": FORMAT_VERSION, "detector": what, "classifier": what},
        "detection_categories": {_ANIMAL: "animal"},
        "classification_categories": {
            str(at): name for at, name in enumerate(config.classes) if at != config.empty
        },
    }
    return json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "images": ['


def _image(row: PredictedImage, config: ModelConfig) -> dict[str, Any]:
    if row.probabilities_C is None:
        return {"file": row.file_name, "failure": str(row.failure), "detections": None}
    probabilities = row.probabilities_C.tolist()
    empty = config.empty
    confidence = max(probabilities) if empty is None else 1 - probabilities[empty]
    named = [(p, at) for at, p in enumerate(probabilities) if at != empty]
    named.sort(key=lambda one: (-one[0], one[1]))
    detection = {
        "category": _ANIMAL,
        "conf": _rounded(confidence),
        "bbox": [0.0, 0.0, 1.0, 1.0],
        "classifications": [[str(at), _rounded(p)] for p, at in named[:MAX_CLASSIFICATIONS]],
    }
    has_animal = confidence >= MIN_CONFIDENCE
    return {"file": row.file_name, "detections": [detection] if has_animal else []}


def _rounded(value: float) -> float:
    return round(float(value), _NUM_DIGITS)
