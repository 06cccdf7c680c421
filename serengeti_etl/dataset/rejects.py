"""Where the rejects of a dataset come from: by reason, by site and by day.

A bad memory card shows as one site, a camera that failed in the rain as one day.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.ahead import in_order
from serengeti_etl.dataset.editions import RETRIED_FILE, Edition, num_retried
from serengeti_etl.dataset.index import (
    CATALOG_FILE,
    REJECT_SCHEMA,
    UNREADABLE,
    Dataset,
    ShardInfo,
    parse_table,
    read_table,
    rejects_name,
)
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store

NO_NAME = "(none)"
"""Stands where the label file names no site or no date."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectGroup:
    """Rejects that have something in common.

    Attributes:
        name: what they have: a reason, a site or a day such as ``2010-07-21``.
        num_rejected: how many there are.
        num_images: images of the catalog of that site or day; of a reason, the rejects.
        reason: the most common reason among them.
        example: file name of one.
    """

    name: str
    num_rejected: int
    num_images: int
    reason: str
    example: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectGroups:
    """All rejects, in groups of three kinds; the largest first.

    Attributes:
        by_reason: such as ``truncated``.
        by_site: where the camera stood.
        by_day: when the camera's clock says that it was.
    """

    by_reason: tuple[RejectGroup, ...]
    by_site: tuple[RejectGroup, ...]
    by_day: tuple[RejectGroup, ...]


def read_rejects(
    store: Store, shards: Iterable[ShardInfo], editions: Iterable[Edition]
) -> pa.Table:
    """What is rejected in the end, rows of ``REJECT_SCHEMA`` in shard order.

    A photograph that a later edition tried again is what came of it there.

    Args:
        store: of the dataset.
        shards: of all these editions.
        editions: of the dataset.

    Raises:
        FileNotFoundError: a file of rejects is missing.
        DatasetError: one is damaged.
    """
    names = [shard.name for shard in shards if shard.num_rejected]
    tables = list(in_order(partial(read_rejects_of, store), names))
    rejects = pa.concat_tables([REJECT_SCHEMA.empty_table(), *tables])
    retried = read_retried(store, editions)
    if not retried.num_rows:
        return rejects
    is_standing = pc.invert(pc.is_in(_places(rejects), value_set=_places(retried)))
    return rejects.filter(is_standing)


def read_rejects_of(store: Store, shard: str) -> pa.Table:
    """The rejects of one shard, or of ``plan``, rows of ``REJECT_SCHEMA``. Raises likewise."""
    name = rejects_name(shard)
    content = store.read(name)
    try:
        return parse_table(content).cast(REJECT_SCHEMA)
    except UNREADABLE as error:
        raise DatasetError(
            f"{name} at {store.url} is damaged ({str(error).strip()}): run `serengeti-etl repair`"
        ) from error


def read_retried(store: Store, editions: Iterable[Edition]) -> pa.Table:
    """The rejects that these editions tried again, as they were. Raises as ``read_rejects``."""
    num_rows = num_retried(editions)
    if not num_rows:
        return REJECT_SCHEMA.empty_table()
    return read_table(store, RETRIED_FILE).cast(REJECT_SCHEMA).slice(0, num_rows)


def _places(rejects: pa.Table) -> pa.Array:
    """Image and shard of each."""
    columns = [rejects[name].combine_chunks() for name in ("image_id", "shard")]
    return pc.binary_join_element_wise(*columns, "\x1f")


def group_rejects(dataset: Dataset) -> RejectGroups:
    """The photographs of ``dataset`` that could not be used, in groups.

    Raises:
        DatasetError: a file of rejects or the catalog is damaged or missing.
    """
    try:
        rejects = read_rejects(dataset.store, dataset.info.shards, dataset.info.editions)
        if not rejects.num_rows:
            return RejectGroups(by_reason=(), by_site=(), by_day=())
        catalog = read_table(dataset.store, CATALOG_FILE, ["image_id", "site", "datetime"])
    except UNREADABLE as error:
        raise DatasetError(
            f"rejects or catalog of {dataset.store.url} cannot be read ({error}); run "
            f"`serengeti-etl verify {dataset.store.url}`"
        ) from error
    rejects = rejects.filter(pc.equal(rejects["state"], "rejected"))
    rows = pc.index_in(rejects["image_id"], value_set=catalog["image_id"])
    sites, days = _named(catalog["site"]), _days(catalog)
    return RejectGroups(
        by_reason=_groups(rejects, rejects["reason"], rejects["reason"]),
        by_site=_groups(rejects, sites.take(rows), sites),
        by_day=_groups(rejects, days.take(rows), days),
    )


def _days(catalog: pa.Table) -> pa.ChunkedArray:
    days = pc.cast(pc.cast(catalog["datetime"], pa.date32()), pa.string())
    return _named(pc.fill_null(days, ""))


def _named(names: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(names, ""), NO_NAME, names)


def _groups(
    rejects: pa.Table, names: pa.ChunkedArray, everything: pa.ChunkedArray
) -> tuple[RejectGroup, ...]:
    """The rejects by ``names``, a name of each; ``everything`` holds the name of every image."""
    table = pa.table({"name": names, "reason": rejects["reason"], "file": rejects["file_name"]})
    counts = table.group_by(["name", "reason"], use_threads=False)
    parts = counts.aggregate([("file", "count"), ("file", "min")]).to_pylist()
    all_counts = pc.value_counts(everything).to_pylist()
    totals = {entry["values"]: entry["counts"] for entry in all_counts}
    by_name: dict[str, list[dict[str, Any]]] = {}
    for part in sorted(parts, key=lambda one: (-one["file_count"], one["reason"])):
        by_name.setdefault(part["name"], []).append(part)
    groups = [_group(name, found, totals[name]) for name, found in by_name.items()]
    return tuple(sorted(groups, key=lambda group: (-group.num_rejected, group.name)))


def _group(name: str, parts: list[dict[str, Any]], num_images: int) -> RejectGroup:
    """One group of its parts by reason, the most common first."""
    return RejectGroup(
        name=name,
        num_rejected=sum(part["file_count"] for part in parts),
        num_images=num_images,
        reason=parts[0]["reason"],
        example=parts[0]["file_min"],
    )
