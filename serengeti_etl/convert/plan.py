"""Which image goes to which split and shard: pure, repeatable, and a table one can open.

Whole sequences are ordered by a keyed digest and cut into shards of nearly equal size, so each
shard is a random sample of its split and shuffling over a few shards is as good as over all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.selection import SELECTED_SCHEMA, Selection
from serengeti_etl.catalog.splits import keyed_digest
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.dataset.index import FORMAT, REJECT_SCHEMA, canonical_bytes
from serengeti_etl.errors import ConfigError

PLAN_SCHEMA = pa.schema([pa.field("shard", pa.string(), nullable=False), *SELECTED_SCHEMA])


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedShard:
    """One shard to make.

    Attributes:
        name: such as ``train-000012``.
        split: ``train`` or ``val``.
        row_group: its row group in plan.parquet, from 0.
        first_row: of the plan's rows the first that is its own, from 0.
        num_images: rows of that row group.
        fingerprint: of everything that decides the shard's bytes, hexadecimal.
    """

    name: str
    split: str
    row_group: int
    first_row: int
    num_images: int
    fingerprint: str

    def part_of(self, table: pa.Table) -> pa.Table:
        """Its rows of a table that has a row for each of the plan, in the same order."""
        return table.slice(self.first_row, self.num_images)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a conversion will do.

    Attributes:
        rows: rows of ``PLAN_SCHEMA`` in shard order, inside a shard in the order of its tar.
        excluded: rows of ``REJECT_SCHEMA``: images that go to no shard, with the rule.
        shards: in order; shard i is row group i.
        classes: categories in the order of a model's outputs.
        plan_hash: of everything that decides the dataset's bytes, hexadecimal.
        priors: as the selection has them.
    """

    rows: pa.Table
    excluded: pa.Table
    shards: tuple[PlannedShard, ...]
    classes: tuple[str, ...]
    plan_hash: str
    priors: Mapping[str, Any]

    def shard_rows(self, shard: PlannedShard) -> pa.Table:
        """The plan rows of one shard."""
        return shard.part_of(self.rows)


def make_plan(selection: Selection, pipeline: SeasonPipeline, encoder: str) -> Plan:
    """The plan for ``selection``; the same arguments give the same plan on any machine.

    Args:
        selection: images to convert, and those that are not.
        pipeline: settings that decide the bytes, of one size.
        encoder: name and version of what writes the JPEGs: other builds give other pixels.

    Raises:
        ConfigError: a shard cannot hold the longest sequence, or a class has no place.
    """
    return make_plans(selection, [pipeline], encoder)[0]


def make_plans(
    selection: Selection, pipelines: Sequence[SeasonPipeline], encoder: str
) -> tuple[Plan, ...]:
    """As ``make_plan`` for each of several pipelines, which differ in ``resize`` only.

    They share all rows, and their shards differ in nothing but the fingerprints.
    """
    first = pipelines[0]
    classes = _classes(selection.images, first)
    rows = _assign_shards(selection.images, first)
    excluded = _reject_rows(selection.excluded)
    plans = []
    for pipeline, shards in zip(pipelines, _planned_shards(rows, pipelines, encoder), strict=True):
        plan = Plan(
            rows=rows,
            excluded=excluded,
            shards=shards,
            classes=classes,
            plan_hash=_plan_hash(pipeline, classes, shards, excluded),
            priors=selection.priors,
        )
        plans.append(plan)
    return tuple(plans)


def _plan_hash(
    pipeline: SeasonPipeline,
    classes: tuple[str, ...],
    shards: tuple[PlannedShard, ...],
    excluded: pa.Table,
) -> str:
    deciding = json.dumps(
        [FORMAT, pipeline.deciding_settings(), classes, [shard.fingerprint for shard in shards]],
        sort_keys=True,
    ).encode()
    digest = hashlib.sha256(deciding)
    digest.update(canonical_bytes(excluded))
    return digest.hexdigest()


def _reject_rows(excluded: pa.Table) -> pa.Table:
    """The same images as rows of ``REJECT_SCHEMA``."""
    table = excluded.append_column("shard", pa.nulls(excluded.num_rows, pa.string()))
    table = table.append_column("stage", pa.array(["plan"] * excluded.num_rows, pa.string()))
    return table.select(REJECT_SCHEMA.names).cast(REJECT_SCHEMA)


def _classes(planned: pa.Table, pipeline: SeasonPipeline) -> tuple[str, ...]:
    occurring = set(pc.unique(pc.list_flatten(planned["labels"])).to_pylist())
    if pipeline.classes is None:
        return tuple(sorted(occurring))
    unlisted = sorted(occurring - set(pipeline.classes))
    if unlisted:
        raise ConfigError(
            f"classes does not list {unlisted[0]!r} ({len(unlisted)} such categories occur in the "
            "label file): list them all, or leave classes out"
        )
    return pipeline.classes


def _assign_shards(planned: pa.Table, pipeline: SeasonPipeline) -> pa.Table:
    """Planned rows with their shard, in shard order."""
    parts = []
    for split in sorted(pc.unique(planned["split"]).to_pylist()):
        rows = planned.filter(pc.field("split") == split)
        rows = rows.take(_mixed_order(rows["seq_id"], pipeline.shards.seed))
        numbers = _shard_numbers(rows["seq_id"], pipeline)
        names = np.char.add(f"{split}-", np.char.zfill(numbers.astype(str), 6))
        parts.append(rows.append_column("shard", pa.array(names, pa.string())))
    return pa.concat_tables(parts).select(PLAN_SCHEMA.names).cast(PLAN_SCHEMA).combine_chunks()


def _mixed_order(seq_ids: pa.ChunkedArray, seed: int) -> npt.NDArray[np.int64]:
    """Row numbers in an order that mixes sequences and keeps the frames of each together."""
    encoded = seq_ids.combine_chunks().dictionary_encode()
    texts = encoded.dictionary.to_pylist()
    digests = [keyed_digest(text, purpose="shard", seed=seed) + text.encode() for text in texts]
    rank = np.empty(len(texts), dtype=np.int64)
    rank[sorted(range(len(texts)), key=digests.__getitem__)] = np.arange(len(texts))
    order: npt.NDArray[np.int64] = np.argsort(rank[encoded.indices.to_numpy()], kind="stable")
    return order


def _shard_numbers(seq_ids: pa.ChunkedArray, pipeline: SeasonPipeline) -> npt.NDArray[np.int64]:
    """Shard number of each row: nearly equal shards, no sequence cut, none above the limit."""
    codes = seq_ids.combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    lengths = np.diff(starts, append=len(codes))
    limit = pipeline.shards.num_samples(pipeline.resize)
    longest = int(lengths.max())
    if longest > limit:
        raise ConfigError(
            f"a shard holds at most {limit} images, but a sequence has {longest} frames: raise "
            "shards.max_samples or shards.target_bytes"
        )
    # A sequence belongs where it starts, so a shard overshoots an even share by one sequence less
    # one image at most: with that much room left, none exceeds the limit.
    num_shards = -(-len(codes) // (limit - longest + 1))
    numbers: npt.NDArray[np.int64] = np.repeat(starts * num_shards // len(codes), lengths)
    # With shards of few images some would stay empty: number those that are not.
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


def _planned_shards(
    rows: pa.Table, pipelines: Sequence[SeasonPipeline], encoder: str
) -> list[tuple[PlannedShard, ...]]:
    """The shards of each pipeline."""
    codes = rows["shard"].combine_chunks().dictionary_encode()
    names = codes.dictionary.to_pylist()
    counts = np.bincount(codes.indices.to_numpy(), minlength=len(names))
    edges = np.concatenate(([0], np.cumsum(counts)))
    settings = [_resize_settings(pipeline, encoder) for pipeline in pipelines]
    shards: list[list[PlannedShard]] = [[] for _ in pipelines]
    for at, (first, end) in enumerate(pairwise(edges)):
        content = canonical_bytes(rows.slice(first, end - first))
        shard = PlannedShard(
            name=names[at],
            split=names[at].rpartition("-")[0],
            row_group=at,
            first_row=int(first),
            num_images=int(counts[at]),
            fingerprint="",
        )
        for prefix, mine in zip(settings, shards, strict=True):
            digest = hashlib.sha256(prefix)
            digest.update(content)
            mine.append(replace(shard, fingerprint=digest.hexdigest()))
    return [tuple(mine) for mine in shards]


def _resize_settings(pipeline: SeasonPipeline, encoder: str) -> bytes:
    """What decides pixels, as it enters fingerprints."""
    deciding = [FORMAT, encoder, pipeline.deciding_settings()["resize"]]
    return json.dumps(deciding, sort_keys=True).encode()
