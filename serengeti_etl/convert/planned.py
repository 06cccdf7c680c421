"""What is decided before the first photograph is read, and how it lies on storage."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.catalog.read import Labels, read_labels
from serengeti_etl.catalog.selection import SPLITS_FILE, Selection, select_images, splits_json
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.archives import list_members, match_members
from serengeti_etl.convert.plan import Plan, make_plans
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.convert.shard import LOCATIONS_FILE
from serengeti_etl.dataset.index import (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    PLAN_FILE,
    PLAN_SETTINGS_FILE,
    rejects_name,
    write_table,
)
from serengeti_etl.errors import CatalogError, ConfigError, DatasetError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSeason:
    """A label file, and what a pipeline makes of it.

    Attributes:
        labels: the label file, read.
        selection: which of its images go on.
        plans: into which shards; one for each entry of ``SeasonPipeline.by_folder``, by its name.
    """

    labels: Labels
    selection: Selection
    plans: Mapping[str, Plan]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedDataset:
    """One dataset to make, of one size.

    Attributes:
        folder: below the output; ``""`` is the output itself.
        store: of that folder.
        pipeline: of that size alone.
        plan: which image goes to which of its shards.
        num_images: of the catalog.
    """

    folder: str
    store: Store
    pipeline: SeasonPipeline
    plan: Plan
    num_images: int


def plan_season(pipeline: SeasonPipeline, scratch: Path) -> PlannedSeason:
    """What ``pipeline`` comes to; nothing but ``scratch`` is written. Raises as ``convert_season``.

    Args:
        pipeline: what to convert, of one size or several.
        scratch: empty local folder.
    """
    labels = read_labels(pipeline, scratch)
    selection = select_images(labels.images, pipeline)
    pipelines = pipeline.by_folder()
    plans = make_plans(selection, list(pipelines.values()), encoder_version())
    by_folder = dict(zip(pipelines, plans, strict=True))
    return PlannedSeason(labels=labels, selection=selection, plans=by_folder)


def plan_datasets(pipeline: SeasonPipeline, output: Store) -> tuple[PlannedDataset, ...]:
    """The datasets of ``pipeline``, after writing their plans: the catalog itself is let go.

    Raises:
        ConfigError: the folder of one of them holds another plan; nothing is written.
    """
    with TemporaryDirectory() as scratch:
        season = plan_season(pipeline, Path(scratch))
        datasets = tuple(
            PlannedDataset(
                folder=folder,
                store=output.at(folder),
                pipeline=one_size,
                plan=season.plans[folder],
                num_images=season.labels.images.num_rows,
            )
            for folder, one_size in pipeline.by_folder().items()
        )
        for dataset in [dataset for dataset in datasets if not _is_planned(dataset)]:
            write_plan(dataset, season)
    return datasets


def _is_planned(dataset: PlannedDataset) -> bool:
    """Whether its plan is on storage already; refuses if another one is."""
    try:
        there = dataset.store.read_json(PLAN_SETTINGS_FILE)
    except FileNotFoundError:
        return False
    except ValueError as error:
        raise DatasetError(
            f"{PLAN_SETTINGS_FILE} at {dataset.store.url} is damaged ({error}); "
            "`serengeti-etl repair` makes it again"
        ) from error
    refuse_another_plan(dataset, there)
    return True


def refuse_another_plan(dataset: PlannedDataset, there: Mapping[str, Any]) -> None:
    """Nothing, if ``there`` is of the plan of ``dataset``.

    Args:
        dataset: what is asked for.
        there: what stands in a plan.json.

    Raises:
        ConfigError: it is of another; names the settings that differ.
    """
    if there.get("plan_hash") != dataset.plan.plan_hash:
        raise ConfigError(_what_changed(there, _record(dataset), dataset.store.url))


def write_plan(dataset: PlannedDataset, season: PlannedSeason) -> None:
    """Put catalog and plan on storage, plan.json last."""
    store, plan = dataset.store, dataset.plan
    store.upload(season.labels.annotations_path, ANNOTATIONS_FILE)
    write_table(store, CATALOG_FILE, season.labels.images)
    store.write_json(SPLITS_FILE, splits_json(season.selection, dataset.pipeline))
    write_table(store, rejects_name("plan"), plan.excluded)
    _write_row_groups(store, PLAN_FILE, plan, plan.rows)
    store.write_json(PLAN_SETTINGS_FILE, _record(dataset))


def _record(dataset: PlannedDataset) -> dict[str, Any]:
    """The contents of plan.json."""
    return {
        "plan_hash": dataset.plan.plan_hash,
        "encoder": encoder_version(),
        "settings": dataset.pipeline.deciding_settings(),
    }


def _write_row_groups(store: Store, name: str, plan: Plan, rows: pa.Table) -> None:
    """Write a table that has a row for each of the plan, one row group per shard."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, rows.schema, compression="zstd") as writer:
        for shard in plan.shards:
            writer.write_table(shard.part_of(rows), row_group_size=shard.num_images)
    store.write(name, sink.getbuffer())


def write_locations(dataset: PlannedDataset) -> None:
    """Put on storage where in their archives the photographs of the plan lie.

    Raises:
        CatalogError: an archive is missing or damaged, or none has any of them.
    """
    plan, archives = dataset.plan, dataset.pipeline.archives
    members = list_members(source_of(dataset.pipeline), archives)
    locations = match_members(members, plan.rows["file_name"])
    if locations["archive"].null_count == locations.num_rows:
        raise CatalogError(
            f"none of the {locations.num_rows} photographs is in {', '.join(archives)}: "
            f"the label file has names such as {plan.rows['file_name'][0]}, the archives such as "
            f"{members['name'][0] if members.num_rows else 'none'}"
        )
    _write_row_groups(dataset.store, LOCATIONS_FILE, plan, locations)


def source_of(pipeline: SeasonPipeline) -> Store:
    """Where labels and photographs lie."""
    return Store(url=pipeline.source, options=pipeline.storage_options)


def _what_changed(there: Mapping[str, Any], now: dict[str, Any], url: str) -> str:
    old, new = dict(_flat(there)), dict(_flat(now))
    names = sorted(old.keys() | new.keys())
    changes = [
        f"{name.removeprefix('settings.')} was {old.get(name)!r} and is now {new.get(name)!r}"
        for name in names
        if old.get(name) != new.get(name) and name != "plan_hash"
    ]
    reason = "; ".join(changes) or "the label file lists other images or labels"
    return (
        f"{url} already holds a conversion with another plan: {reason}. "
        "Give a new --output, or set it back as it was"
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
