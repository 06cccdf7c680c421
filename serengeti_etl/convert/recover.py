"""The plan of several editions from what was made of it, where its own files are damaged.

The plan of one edition follows from catalog and pipeline. Of several, which images came when is
told by ``plan.parquet`` alone; or else by the index and the rejects, which name the shard of each.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.read import Labels
from serengeti_etl.catalog.selection import SELECTED_SCHEMA, select_images
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.assignment import PLAN_SCHEMA, Assignment, mixed_order
from serengeti_etl.convert.planned import Earlier
from serengeti_etl.dataset.editions import RETRIED_FILE
from serengeti_etl.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    PLAN_FILE,
    REJECT_SCHEMA,
    UNREADABLE,
    DatasetIndex,
    read_table,
)
from serengeti_etl.dataset.rejects import read_rejects
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.storage import Store


def recovered_editions(
    store: Store, index: DatasetIndex | None, labels: Labels, pipeline: SeasonPipeline
) -> Earlier:
    """What ``earlier_of`` reads from a whole dataset; the plan's hash must tell if it is right.

    Args:
        store: of a dataset whose ``PLAN_FILE`` or ``RETRIED_FILE`` is damaged.
        index: contents of its dataset.json, None if that is damaged too.
        labels: the label file, read.
        pipeline: that made it.

    Raises:
        DatasetError: too much else is damaged.
    """
    if index is None:
        raise beyond_recovery(store, f"{DATASET_FILE} is damaged too")
    try:
        samples = read_table(store, INDEX_FILE, ["image_id", "seq_id", "site", "split", "shard"])
        rejects = read_rejects(store, index.shards, ())
    except UNREADABLE as error:
        raise beyond_recovery(store, f"so are index or rejects: {error}") from error
    try:
        images = select_images(labels.images, pipeline, samples).images
    except ConfigError as error:
        raise beyond_recovery(store, str(error)) from error
    rows = _rows(images, samples, rejects, index)
    if rows is None:
        raise beyond_recovery(store, "index and rejects have images that the pipeline leaves out")
    assignment = Assignment(rows=rows, editions=index.editions)
    before, after = assignment.parted()
    retried = _retried(assignment, rejects)
    return Earlier(url=store.url, before=before, after=after, retried=retried)


def beyond_recovery(store: Store, reason: str) -> DatasetError:
    """The error of a plan that cannot be made again."""
    return DatasetError(
        f"{PLAN_FILE} or {RETRIED_FILE} at {store.url} is damaged, and as the dataset has several "
        f"editions, only a copy of it can tell what was planned when ({reason}): put these files "
        "back from one, and repair again"
    )


def _rows(
    images: pa.Table, samples: pa.Table, rejects: pa.Table, index: DatasetIndex
) -> pa.Table | None:
    """Rows of the plan; None if an image is not among ``images``."""
    names = ["image_id", "shard"]
    sampled, rejected = samples.select(names), rejects.select(names)
    places = pa.concat_tables([sampled, rejected.cast(sampled.schema)]).combine_chunks()
    rows = pc.index_in(places["image_id"], value_set=images["image_id"].combine_chunks())
    shards = pa.array([shard.name for shard in index.shards], pa.string())
    numbers = pc.index_in(places["shard"], value_set=shards)
    if rows.null_count or numbers.null_count:
        return None
    # As they were assigned: in the order of the catalog, mixed, and by shard.
    table = images.select(SELECTED_SCHEMA.names).take(rows)
    table = table.add_column(0, "shard", places["shard"])
    by_catalog = np.argsort(rows.to_numpy(), kind="stable")
    mixed = by_catalog[
        mixed_order(table["seq_id"].take(by_catalog), index.settings["shards"]["seed"])
    ]
    order = mixed[np.argsort(numbers.to_numpy()[mixed], kind="stable")]
    return table.take(order).cast(PLAN_SCHEMA).combine_chunks()


def _retried(assignment: Assignment, rejects: pa.Table) -> pa.Table:
    """The rejects that later editions tried again, in their order."""
    numbers = pc.index_in(rejects["shard"], value_set=pa.array(assignment.shards()[0])).to_numpy()
    is_left = np.ones(len(numbers), dtype=np.bool_)
    found = [REJECT_SCHEMA.empty_table()]
    first_row = first_shard = 0
    for edition in assignment.editions:
        if edition.kind == "retry":
            tried = assignment.rows.slice(first_row, edition.num_images)["image_id"]
            is_tried = pc.is_in(rejects["image_id"], value_set=tried.combine_chunks()).to_numpy()
            is_tried &= is_left & (numbers < first_shard)
            found.append(rejects.filter(pa.array(is_tried)))
            is_left &= ~is_tried
        first_row += edition.num_images
        first_shard += edition.num_shards
    return pa.concat_tables(found)
