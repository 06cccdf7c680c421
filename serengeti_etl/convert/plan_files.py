"""How a plan lies on storage, and what is to be read there of earlier ones.

``plan.json`` is written last and tells the editions, ``plan.parquet`` has those of an unfinished
try behind theirs: whenever a process is killed, the plan of before can be read, or is there whole.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serengeti_etl.catalog.selection import SPLITS_FILE, splits_json
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.archives import list_members, match_members
from serengeti_etl.convert.assignment import PLAN_SCHEMA, Assignment
from serengeti_etl.convert.plan import Plan
from serengeti_etl.convert.planned import (
    PlannedDataset,
    PlannedSeason,
    another_plan,
    source_of,
)
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.convert.shard import LOCATIONS_FILE
from serengeti_etl.dataset.editions import RETRIED_FILE, Edition, parse_editions
from serengeti_etl.dataset.index import (
    ANNOTATIONS_FILE,
    CATALOG_FILE,
    PLAN_FILE,
    PLAN_SETTINGS_FILE,
    UNREADABLE,
    DatasetIndex,
    rejects_name,
    write_table,
)
from serengeti_etl.dataset.sums import PLAN_FILES, forget_sums, refuse_damaged
from serengeti_etl.errors import CatalogError, DatasetError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecord:
    """What storage says of a plan.

    Attributes:
        plan_hash: as ``Plan`` has it.
        encoder: libraries that make its JPEGs.
        settings: of the pipeline, those that decide bytes.
        editions: what it consists of; () is one of all that is in ``plan.parquet``.
        is_whole: False if its files may be missing, or partly those of a later plan.
    """

    plan_hash: str
    encoder: str | None
    settings: Mapping[str, Any]
    editions: tuple[Edition, ...] = ()
    is_whole: bool = True


def read_record(store: Store) -> PlanRecord | None:
    """What plan.json says, or dataset.json where that is lost; None if neither is there.

    Raises:
        DatasetError: plan.json is damaged.
    """
    try:
        return parse_record(store.read_json(PLAN_SETTINGS_FILE))
    except FileNotFoundError:
        return _record_of_dataset(store)
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(
            f"{PLAN_SETTINGS_FILE} at {store.url} is damaged ({error}); "
            "`serengeti-etl repair` makes it again"
        ) from error


def parse_record(value: Any) -> PlanRecord:
    """What plan.json says. Raises ValueError, TypeError or KeyError."""
    if not isinstance(value["settings"], dict):
        raise TypeError("it has no settings")
    return PlanRecord(
        plan_hash=value["plan_hash"],
        encoder=value.get("encoder"),
        settings=value["settings"],
        editions=parse_editions(value.get("editions", [])),
        is_whole=not value.get("is_changing", False),
    )


def record_of(index: DatasetIndex) -> PlanRecord:
    """What dataset.json says of its plan, whose files may be missing."""
    return PlanRecord(
        plan_hash=index.plan_hash,
        encoder=index.versions.get("encoder"),
        settings=index.settings,
        editions=index.editions,
        is_whole=False,
    )


def _record_of_dataset(store: Store) -> PlanRecord | None:
    try:
        return record_of(DatasetIndex.read(store))
    except DatasetError:
        return None


def read_assignment(store: Store, editions: tuple[Edition, ...]) -> Assignment:
    """The rows of these editions of a plan, whatever has been written behind them.

    Raises:
        DatasetError: plan.parquet is missing or damaged.
    """
    try:
        refuse_damaged(store, PLAN_FILE)
        with store.open_input(PLAN_FILE) as source:
            file = pq.ParquetFile(source)
            is_told = bool(editions)
            num_shards = sum(one.num_shards for one in editions) if is_told else file.num_row_groups
            rows = file.read_row_groups(range(num_shards), use_threads=False).cast(PLAN_SCHEMA)
    except UNREADABLE as error:
        raise DatasetError(
            f"{PLAN_FILE} at {store.url} is missing or damaged ({error}), and what was added later "
            f"cannot be planned without it: run `serengeti-etl repair`"
        ) from error
    whole = Edition(kind="catalog", num_shards=num_shards, num_images=rows.num_rows)
    return Assignment(rows=rows.combine_chunks(), editions=editions or (whole,))


def replace_plan(dataset: PlannedDataset, season: PlannedSeason, there: PlanRecord | None) -> None:
    """As ``write_plan``, where there was another plan, which can be read until this one is there.

    Args:
        dataset: whose plan is written.
        season: that it is of.
        there: what storage says now; None if there is nothing.
    """
    store = dataset.store
    if there is not None:
        forget_sums(store, (*PLAN_FILES, RETRIED_FILE))
        _mark_as_changing(store, there)
    write_plan(dataset, season)


def _mark_as_changing(store: Store, there: PlanRecord) -> None:
    """Let plan.json say that the files of its plan may be those of another one from now on."""
    # Of a plan without editions it could not be told any more how much of plan.parquet is its own.
    editions = there.editions or read_assignment(store, ()).editions
    try:
        content = store.read_json(PLAN_SETTINGS_FILE)
    except FileNotFoundError:
        content = _content(there)
    more = {"editions": [asdict(edition) for edition in editions], "is_changing": True}
    store.write_json(PLAN_SETTINGS_FILE, content | more)


def write_plan(dataset: PlannedDataset, season: PlannedSeason) -> None:
    """Put catalog and plan on storage, plan.json last."""
    store, plan = dataset.store, dataset.plan
    store.upload(season.labels.annotations_path, ANNOTATIONS_FILE)
    write_table(store, CATALOG_FILE, season.labels.images)
    store.write_json(SPLITS_FILE, splits_json(season.selection, dataset.pipeline))
    write_table(store, rejects_name("plan"), plan.excluded)
    if plan.retried.num_rows:
        write_table(store, RETRIED_FILE, plan.retried)
    _write_row_groups(store, PLAN_FILE, plan, plan.rows)
    record = record_of_plan(dataset)
    more = {"classes": plan.classes, "priors": plan.priors}
    store.write_json(PLAN_SETTINGS_FILE, _content(record) | more)


def settings_record(pipeline: SeasonPipeline) -> PlanRecord:
    """What plan.json is to say before anything is planned."""
    return PlanRecord(
        plan_hash="", encoder=encoder_version(), settings=pipeline.deciding_settings()
    )


def record_of_plan(dataset: PlannedDataset) -> PlanRecord:
    """What plan.json is to say."""
    plan = dataset.plan
    record = settings_record(dataset.pipeline)
    return replace(record, plan_hash=plan.plan_hash, editions=plan.editions)


def _content(record: PlanRecord) -> dict[str, Any]:
    return {
        "plan_hash": record.plan_hash,
        "encoder": record.encoder,
        "settings": record.settings,
        "editions": [asdict(edition) for edition in record.editions],
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


def refuse_other_settings(there: PlanRecord, now: PlanRecord, url: str) -> None:
    """Nothing, if a plan can go on with another: no setting differs, but for what has grown.

    Raises:
        ConfigError: it cannot; names the settings.
    """
    reason = "; ".join(
        f"{name} was {old!r} and is now {new!r}"
        for name, old, new in _changes(there, now)
        if not _is_grown(name, old, new)
    )
    if reason:
        raise another_plan(url, reason)


def refuse_another_plan(there: PlanRecord, now: PlanRecord, url: str) -> None:
    """Nothing, if both are of the same plan.

    Raises:
        ConfigError: they are not; names the settings that differ.
    """
    if there.plan_hash != now.plan_hash:
        changes = [
            f"{name} was {old!r} and is now {new!r}" for name, old, new in _changes(there, now)
        ]
        raise another_plan(url, "; ".join(changes) or "the label file lists other images or labels")


def _changes(there: PlanRecord, now: PlanRecord) -> Iterator[tuple[str, Any, Any]]:
    """Name, old value and new value of the settings that differ."""
    old, new = (
        dict(_flat({"encoder": one.encoder, "settings": one.settings})) for one in (there, now)
    )
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield name.removeprefix("settings."), old.get(name), new.get(name)


_NAME_IMAGES = {"rules.seasons", "rules.sites", "split.train", "split.val"}
"""Settings that list what is taken."""


def _is_grown(name: str, old: Any, new: Any) -> bool:
    """True if a setting has changed in a way that can only add images, or classes at the end."""
    if name == "max_sequences":
        return old is not None and (new is None or new > old)
    if name == "classes":
        return bool(old and new) and new[: len(old)] == old
    if name in _NAME_IMAGES and old is not None:
        return new is None or set(old) <= set(new)
    return False


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, entry in value.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry
