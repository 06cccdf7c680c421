"""What a conversion will do: pure, repeatable, and told apart from all others by fingerprints."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import pyarrow as pa

from serengeti_etl.catalog.selection import Selection
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.assignment import Assignment, first_assignment
from serengeti_etl.dataset.editions import Edition
from serengeti_etl.dataset.index import FORMAT, REJECT_SCHEMA, canonical_bytes
from serengeti_etl.errors import ConfigError


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
        is_retry: True if an earlier edition rejected its photographs.
    """

    name: str
    split: str
    row_group: int
    first_row: int
    num_images: int
    fingerprint: str
    is_retry: bool = False

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
        editions: what each plan added, in the order of ``shards``.
        retried: rows of ``REJECT_SCHEMA``: what earlier editions rejected and later ones try again;
            in the shards of the earlier ones they stay rejected as they are here.
    """

    rows: pa.Table
    excluded: pa.Table
    shards: tuple[PlannedShard, ...]
    classes: tuple[str, ...]
    plan_hash: str
    priors: Mapping[str, Any]
    editions: tuple[Edition, ...]
    retried: pa.Table = field(default_factory=REJECT_SCHEMA.empty_table)

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
    selection: Selection,
    pipelines: Sequence[SeasonPipeline],
    encoder: str,
    assignment: Assignment | None = None,
) -> tuple[Plan, ...]:
    """As ``make_plan`` for each of several pipelines, which differ in ``resize`` only.

    They share all rows, and their shards differ in nothing but the fingerprints. Of several
    editions, ``assignment`` has all, and ``selection`` is the last that was made.
    """
    assignment = assignment or first_assignment(selection.images, pipelines[0])
    classes = _classes(assignment, pipelines[0])
    excluded = _reject_rows(selection.excluded)
    plans = []
    planned = _planned_shards(assignment, pipelines, encoder)
    for pipeline, shards in zip(pipelines, planned, strict=True):
        plan = Plan(
            rows=assignment.rows,
            excluded=excluded,
            shards=shards,
            classes=classes,
            plan_hash=_plan_hash(pipeline, classes, shards, excluded),
            priors=selection.priors,
            editions=assignment.editions,
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


def _classes(assignment: Assignment, pipeline: SeasonPipeline) -> tuple[str, ...]:
    if pipeline.classes is None:
        return assignment.categories()
    unlisted = sorted(set(assignment.categories()) - set(pipeline.classes))
    if unlisted:
        raise ConfigError(
            f"classes does not list {unlisted[0]!r} ({len(unlisted)} such categories occur in the "
            "label file): list them all, or leave classes out"
        )
    return pipeline.classes


def _planned_shards(
    assignment: Assignment, pipelines: Sequence[SeasonPipeline], encoder: str
) -> list[tuple[PlannedShard, ...]]:
    """The shards of each pipeline."""
    names, edges = assignment.shards()
    kinds = [edition.kind for edition in assignment.editions for _ in range(edition.num_shards)]
    settings = [_resize_settings(pipeline, encoder) for pipeline in pipelines]
    shards: list[list[PlannedShard]] = [[] for _ in pipelines]
    for at, (first, end) in enumerate(pairwise(edges)):
        content = canonical_bytes(assignment.rows.slice(first, end - first))
        shard = PlannedShard(
            name=names[at],
            split=names[at].rpartition("-")[0],
            row_group=at,
            first_row=first,
            num_images=end - first,
            fingerprint="",
            is_retry=kinds[at] == "retry",
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
