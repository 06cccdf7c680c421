"""Where the rejects of a dataset come from: by reason, by site and by day.

A bad memory card shows as one site, a camera that failed in the rain as one day.
"""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.dataset.index import (
    CATALOG_FILE,
    REJECT_SCHEMA,
    UNREADABLE,
    Dataset,
    read_table,
    rejects_name,
)
from serengeti_etl.errors import DatasetError

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


def group_rejects(dataset: Dataset) -> RejectGroups:
    """The photographs of ``dataset`` that could not be used, in groups.

    Raises:
        DatasetError: a file of rejects or the catalog is damaged or missing.
    """
    names = [rejects_name(shard.name) for shard in dataset.info.shards if shard.num_rejected]
    if not names:
        return RejectGroups(by_reason=(), by_site=(), by_day=())
    try:
        tables = [read_table(dataset.store, name) for name in names]
        catalog = read_table(dataset.store, CATALOG_FILE, ["image_id", "site", "datetime"])
    except UNREADABLE as error:
        raise DatasetError(
            f"rejects or catalog of {dataset.store.url} cannot be read ({error}); run "
            f"`serengeti-etl verify {dataset.store.url}`"
        ) from error
    rejects = pa.concat_tables(tables).cast(REJECT_SCHEMA)
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
