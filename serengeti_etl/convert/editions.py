"""The plan of a run at a place where there may be one already: gone on with, or added to.

An unchanged catalog and pipeline is the plan that is there. One that has grown adds an edition with
what is new; so does trying rejects again. Read ``plan_datasets`` first.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.read import read_labels
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.assignment import NOTHING
from serengeti_etl.convert.plan_files import (
    PlanRecord,
    read_assignment,
    read_record,
    refuse_other_settings,
    replace_plan,
    settings_record,
)
from serengeti_etl.convert.planned import (
    Earlier,
    PlannedDataset,
    PlannedSeason,
    another_plan,
    plan_labels,
    plan_retry,
    plan_season,
)
from serengeti_etl.dataset.editions import RETRIED_FILE, Edition
from serengeti_etl.dataset.index import REJECT_SCHEMA, UNREADABLE, DatasetIndex
from serengeti_etl.dataset.rejects import read_rejects, read_retried
from serengeti_etl.dataset.sums import refuse_damaged
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Where one dataset lies or is to lie.

    Attributes:
        folder: below the output.
        store: of that folder.
        pipeline: of that size alone.
        record: what is there of a plan, if anything.
    """

    folder: str
    store: Store
    pipeline: SeasonPipeline
    record: PlanRecord | None

    @property
    def editions(self) -> tuple[Edition, ...]:
        """Of the plan that is there."""
        return self.record.editions if self.record is not None else ()

    @property
    def plan_hash(self) -> str | None:
        """Likewise."""
        return self.record.plan_hash if self.record is not None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """What a conversion would add to one dataset.

    Attributes:
        folder: of the dataset, below the output.
        url: of the dataset.
        num_shards: shards of the plan that is there; 0 where there is none.
        num_images: of its images.
        num_new_shards: shards that would be added.
        num_new_images: of their images.
    """

    folder: str
    url: str
    num_shards: int
    num_images: int
    num_new_shards: int
    num_new_images: int


def plan_growth(
    pipeline: SeasonPipeline, output: Store, scratch: Path
) -> tuple[PlannedSeason, tuple[Growth, ...]]:
    """What ``plan_datasets`` would plan, and what of it is new; nothing but ``scratch`` is written.

    Args:
        pipeline: what would be converted, of one size or several.
        output: where its folders are or would be.
        scratch: empty local folder.

    Raises:
        ConfigError: as ``plan_datasets``.
        DatasetError: likewise.
    """
    places = _places(pipeline, output)
    season = _planned(pipeline, places, scratch)
    for place in places:
        _refuse_other_rows(place, season)
    return season, tuple(_growth(place, season) for place in places)


def _growth(place: _Place, season: PlannedSeason) -> Growth:
    there: tuple[Edition, ...] = ()
    if place.record is not None:
        # Datasets of before there were editions do not tell them.
        there = place.editions or read_assignment(place.store, ()).editions
    num_shards = sum(one.num_shards for one in there)
    num_images = sum(one.num_images for one in there)
    plan = season.plans[place.folder]
    return Growth(
        folder=place.folder,
        url=place.store.url,
        num_shards=num_shards,
        num_images=num_images,
        num_new_shards=len(plan.shards) - num_shards,
        num_new_images=plan.rows.num_rows - num_images,
    )


def plan_datasets(
    pipeline: SeasonPipeline, output: Store, *, retry_rejects: bool = False
) -> tuple[PlannedDataset, ...]:
    """The datasets of ``pipeline``, after writing their plans: the catalog itself is let go.

    Args:
        pipeline: what to convert, of one size or several.
        output: where their folders are.
        retry_rejects: add what was rejected as an edition of its own, unless one is unfinished.

    Raises:
        ConfigError: the folder of one of them holds a plan that this one does not go on with;
            nothing is written.
        DatasetError: what an edition is to be added to is damaged.
    """
    places = _places(pipeline, output)
    with TemporaryDirectory() as scratch:
        season = _planned(pipeline, places, Path(scratch))
        if retry_rejects:
            rejects = _rejects_of_finished(places)
            season = plan_retry(season, pipeline, rejects) if rejects.num_rows else season
        lacking = [place for place in places if not _is_there(place, season)]
        for place in lacking:
            _refuse_other_rows(place, season)
        for place in lacking:
            replace_plan(_dataset(place, season), season, place.record)
        return tuple(_dataset(place, season) for place in places)


def earlier_of(store: Store, editions: tuple[Edition, ...]) -> Earlier:
    """All of these editions but the last of the catalog, which is to be planned again.

    Raises:
        DatasetError: what it must be read from is missing or damaged.
    """
    if len(editions) < 2:  # noqa: PLR2004 - the first one follows from catalog and pipeline
        return Earlier(url=store.url, before=NOTHING)
    before, after = read_assignment(store, editions).parted()
    with _damage_told(store):
        refuse_damaged(store, RETRIED_FILE)
        retried = read_retried(store, editions)
    return Earlier(url=store.url, before=before, after=after, retried=retried)


def _places(pipeline: SeasonPipeline, output: Store) -> list[_Place]:
    return [
        _Place(folder=folder, store=store, pipeline=one_size, record=read_record(store))
        for folder, one_size in pipeline.by_folder().items()
        for store in [output.at(folder)]
    ]


def _planned(pipeline: SeasonPipeline, places: Sequence[_Place], scratch: Path) -> PlannedSeason:
    """What is planned already, or that and what is new."""
    for place in places:
        if place.record is not None:
            refuse_other_settings(place.record, settings_record(place.pipeline), place.store.url)
    # Of several sizes that of a killed run that came farthest; the others are brought up to it.
    known = [place for place in places if place.record is not None]
    home = max(known, key=lambda place: len(place.editions), default=None)
    if home is None:
        return plan_season(pipeline, scratch)
    labels = read_labels(pipeline, scratch)
    earlier = earlier_of(home.store, home.editions)
    season = plan_labels(labels, pipeline, earlier)
    if season.plans[home.folder].plan_hash == home.plan_hash:
        return season
    del season  # of millions of images one at a time is enough
    whole = read_assignment(home.store, home.editions)
    return plan_labels(labels, pipeline, replace(earlier, before=whole, after=NOTHING))


def _is_there(place: _Place, season: PlannedSeason) -> bool:
    """Whether all files of its plan are on storage."""
    is_whole = place.record is not None and place.record.is_whole
    return is_whole and place.plan_hash == season.plans[place.folder].plan_hash


def _refuse_other_rows(place: _Place, season: PlannedSeason) -> None:
    """Nothing, if ``season`` begins with what is planned at ``place``.

    Raises:
        ConfigError: at several sizes, other images were converted.
    """
    if place.record is None or place.plan_hash == season.plans[place.folder].plan_hash:
        return
    there = read_assignment(place.store, place.editions).rows
    if there != season.assignment.rows.slice(0, there.num_rows):
        raise another_plan(place.store.url, "it has other images than the other sizes")


def _dataset(place: _Place, season: PlannedSeason) -> PlannedDataset:
    return PlannedDataset(
        folder=place.folder,
        store=place.store,
        pipeline=place.pipeline,
        plan=season.plans[place.folder],
        num_images=season.labels.images.num_rows,
    )


def _rejects_of_finished(places: Sequence[_Place]) -> pa.Table:
    """What is rejected at every size; none as long as an edition is unfinished at any."""
    tables = []
    for place in places:
        try:
            index = DatasetIndex.read(place.store)
        except DatasetError:
            return REJECT_SCHEMA.empty_table()
        if index.plan_hash != place.plan_hash:
            return REJECT_SCHEMA.empty_table()
        with _damage_told(place.store):
            tables.append(read_rejects(place.store, index.shards, index.editions))
    rejects, *others = tables
    for other in others:
        ids = other["image_id"].combine_chunks()
        rejects = rejects.filter(pc.is_in(rejects["image_id"], value_set=ids))
    return rejects


@contextmanager
def _damage_told(store: Store) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise DatasetError(
            f"rejects at {store.url} are missing or damaged ({error}); run `serengeti-etl repair`"
        ) from error
