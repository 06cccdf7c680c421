"""Observations written: annotations, and images of which nobody said anything."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from serengeti_etl.catalog.camtrap_dp.tags import quoted, where
from serengeti_etl.catalog.camtrap_dp.words import (
    BBOX,
    CATEGORIES,
    MISSING,
    TAG_SEPARATOR,
    UNCLASSIFIED,
    WORDS,
)
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, BEHAVIOURS

_FITTING = {
    "count": r"^[1-9][0-9]*$",
    "life_stage": "^(adult|subadult|juvenile)$",
    "sex": "^(female|male)$",
}
"""What a column of words may hold; the others hold anything but how a package writes nothing."""

MADE_ID = "observation-"
"""How ids begin that the writer makes; those of annotations do not."""

_SMALLEST_SIDE = 1e-15  # of a box, by the schema
BATCH_SIZE = 1 << 18


def spool(annotations: Iterable[pa.RecordBatch], path: Path) -> bool:
    """True when annotation ids can be ids of observations, after putting all rows at ``path``."""
    hashes = [np.empty(0, np.uint64)]
    is_fit = True
    with pq.ParquetWriter(path, ANNOTATION_SCHEMA, compression="zstd") as writer:
        for batch in annotations:
            writer.write_batch(batch)
            ids = batch["annotation_id"]
            is_bad = pc.or_(
                pc.is_in(ids, value_set=pa.array([None, *MISSING], pa.string())),
                pc.fill_null(pc.starts_with(ids, MADE_ID), fill_value=False),
            )
            is_fit = is_fit and not pc.any(is_bad).as_py()
            # Eight bytes per id instead of its text; two that collide cost no more than the ids.
            hashes.append(pd.util.hash_array(np.asarray(ids.to_pylist(), dtype=object)))
    everything = np.concatenate(hashes)
    return is_fit and len(np.unique(everything)) == len(everything)


class Observations:
    """Rows of observations, and what they turn out to hold.

    Args:
        keeps_ids: True where ids of annotations are unique; otherwise ids are made, and those of
            the annotations go into tags.
    """

    def __init__(self, *, keeps_ids: bool) -> None:
        self._keeps_ids = keeps_ids
        self._num_made = 0
        self.names: set[str] = set()
        self.levels: set[str] = set()
        self.has_individuals = False

    def tables(self, frames: pa.Table, path: Path) -> Iterator[pa.Table]:
        """All rows, part by part.

        Args:
            frames: images, as ``frames.frames_of`` gives them.
            path: Parquet of annotations.
        """
        is_said = np.zeros(frames.num_rows, bool)
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH_SIZE, use_threads=False):
                yield self.said(pa.Table.from_batches([batch]), frames, is_said)
        unsaid = frames.filter(pa.array(~is_said))
        for start in range(0, unsaid.num_rows, BATCH_SIZE):
            yield self.unsaid(unsaid.slice(start, BATCH_SIZE))

    def said(
        self, rows: pa.Table, frames: pa.Table, is_said: "np.ndarray[Any, np.dtype[np.bool_]]"
    ) -> pa.Table:
        """The observations of some annotations.

        Args:
            rows: of annotations.
            frames: theirs, and perhaps others.
            is_said: for each frame; becomes true where a row speaks of it.
        """
        rows, at = _with_frames(rows, frames)
        own = frames.take(at)
        of_image = pc.is_valid(rows["image_id"])
        is_said[at.filter(of_image).to_numpy()] = True
        words, word_tags = _words(rows)
        boxes, box_tags = _boxes(rows, own)
        tags = word_tags | box_tags | self._own_tags(rows, own)
        is_machine = pc.is_valid(words["classificationProbability"])
        ids = rows["annotation_id"] if self._keeps_ids else self._made_ids(rows.num_rows)
        return self._noted(
            _event(own)
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

    def unsaid(self, frames: pa.Table) -> pa.Table:
        """The observations of frames of which nobody said anything, which come last."""
        tags = {"seq_id": where(frames["is_split"], frames["seq_id"])}
        nothing = pa.nulls(frames.num_rows, pa.string())
        return self._noted(
            _event(frames)
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

    def _noted(self, columns: dict[str, Any]) -> pa.Table:
        table = pa.table(columns)
        self.names |= set(table["scientificName"].unique().drop_null().to_pylist())
        self.levels |= set(table["observationLevel"].unique().to_pylist())
        self.has_individuals |= table["individualID"].null_count < table.num_rows
        return table

    def _own_tags(self, rows: pa.Table, own: pa.Table) -> dict[str, pa.Array]:
        """Tags that say what the reader could not tell from the columns."""
        is_copied = pc.and_(rows["is_of_sequence"], pc.is_valid(rows["image_id"]))
        tags = {
            "is_of_sequence": pc.if_else(is_copied, "true", None),
            # Of a sequence at two sites, which the format does not have.
            "seq_id": where(own["is_split"], own["seq_id"]),
        }
        if not self._keeps_ids:
            tags["annotation_id"] = pc.fill_null(rows["annotation_id"], "")
        return tags

    def _made_ids(self, num: int) -> list[str]:
        first = self._num_made + 1
        self._num_made += num
        return [f"{MADE_ID}{number}" for number in range(first, first + num)]


Columns = dict[str, pa.Array]


def _with_frames(rows: pa.Table, frames: pa.Table) -> tuple[pa.Table, pa.Array]:
    """The rows of images that are written, and the place of each one's frame.

    Where a row speaks of a sequence, that is the first frame of the sequence.
    """
    at = pc.index_in(rows["image_id"], value_set=frames["image_id"])
    of_image = pc.is_valid(rows["image_id"])
    if not pc.all(of_image).as_py():
        first = pc.index_in(rows["seq_id"], value_set=frames["seq_id"])
        at = pc.if_else(of_image, at, first)
    is_there = pc.is_valid(at)
    return rows.filter(is_there), at.filter(is_there).combine_chunks()


def _event(own: pa.Table) -> Columns:
    names = ("deploymentID", "eventStart", "eventEnd")
    return {name: own[name] for name in names} | {"eventID": own["seq_id"]}


def _words(rows: pa.Table) -> tuple[Columns, Columns]:
    """Columns of what is seen, and tags of what does not fit into them."""
    columns, tags = _categories(rows["category"])
    for ours, theirs in WORDS.items():
        values = rows[ours]
        fits = pc.invert(pc.is_in(values, value_set=pa.array(MISSING)))
        if ours in _FITTING:
            fits = pc.match_substring_regex(values, _FITTING[ours])
        columns[theirs] = where(fits, values)
        tags[ours] = where(pc.invert(fits), values)
    tags["subject_id"] = rows["subject_id"]
    tags |= {name: _number_texts(rows[name]) for name in BEHAVIOURS}
    probability = rows["probability"]
    is_share = _is_within(probability, 0)
    columns["classificationProbability"] = where(is_share, _number_texts(probability))
    tags["probability"] = where(pc.invert(is_share), _number_texts(probability))
    return columns, tags


def _categories(categories: pa.Array) -> tuple[Columns, Columns]:
    types = pa.array(list(CATEGORIES))
    at = pc.index_in(categories, value_set=pa.array(list(CATEGORIES.values())))
    is_name = pc.is_null(at)
    # A category that is spelt like "no value" would be lost as a scientific name.
    is_lost = pc.is_in(categories, value_set=pa.array(MISSING))
    names = where(pc.and_(is_name, pc.invert(is_lost)), categories)
    columns = {
        "observationType": pc.fill_null(types.take(at), "animal"),
        "scientificName": names,
    }
    return columns, {"category": where(is_lost, categories)}


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
    columns = {BBOX[name]: where(fits, _number_texts(shares[name])) for name in BBOX}
    is_left = pc.invert(fits)
    tags = {name: where(is_left, _number_texts(rows[name])) for name in BBOX}
    return columns, tags | {"bbox_unit": where(is_left, rows["bbox_unit"])}


def _joined(tags: Columns) -> pa.Array:
    """``key:value`` of every tag that is there, in the order of their keys; null where none is."""
    # Not by null_handling="skip", which in pyarrow 26 drops rows in which all are null.
    texts = [
        pc.fill_null(pc.binary_join_element_wise(f"{TAG_SEPARATOR}{key}:", quoted(values), ""), "")
        for key, values in sorted(tags.items())
    ]
    joined = pc.binary_join_element_wise(*texts, "")
    bare = pc.utf8_slice_codeunits(joined, len(TAG_SEPARATOR))
    return where(pc.not_equal(joined, ""), bare)
