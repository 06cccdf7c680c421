"""What is decided before the first photograph is read."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from serengeti_etl.catalog.read import Labels, read_labels
from serengeti_etl.catalog.selection import Selection, select_images
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.assignment import NOTHING, Assignment, first_difference
from serengeti_etl.convert.plan import Plan, make_plans
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.dataset.index import REJECT_SCHEMA
from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSeason:
    """A label file, and what a pipeline makes of it.

    Attributes:
        labels: the label file, read.
        selection: which of its images go on.
        assignment: into which shards, with those of earlier editions.
        plans: one for each entry of ``SeasonPipeline.by_folder``, by its name.
    """

    labels: Labels
    selection: Selection
    assignment: Assignment
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """What earlier plans decided, around the edition of the catalog that is planned now.

    Attributes:
        url: of a dataset that has them.
        before: editions that stay as they are.
        after: editions that follow, and stay as they are.
        retried: as ``Plan`` has them.
    """

    url: str
    before: Assignment
    after: Assignment = NOTHING
    retried: pa.Table = field(default_factory=REJECT_SCHEMA.empty_table)


_NOTHING = Earlier(url="", before=NOTHING)


def plan_season(
    pipeline: SeasonPipeline, scratch: Path, earlier: Earlier = _NOTHING
) -> PlannedSeason:
    """What ``pipeline`` comes to; nothing but ``scratch`` is written. Raises as ``convert_season``.

    Args:
        pipeline: what to convert, of one size or several.
        scratch: empty local folder.
        earlier: what stands fast.
    """
    return plan_labels(read_labels(pipeline, scratch), pipeline, earlier)


def plan_labels(
    labels: Labels, pipeline: SeasonPipeline, earlier: Earlier = _NOTHING
) -> PlannedSeason:
    """As ``plan_season``, of labels that are read already.

    Raises:
        ConfigError: an image that was planned earlier is another one now; names it.
    """
    before = earlier.before
    selection = select_images(labels.images, pipeline, before.rows if before.editions else None)
    difference = first_difference(before.rows, selection)
    if difference is not None:
        raise another_plan(earlier.url, difference)
    first = next(iter(pipeline.by_folder().values()))
    assignment = before.grown(selection.images, first).followed_by(earlier.after)
    season = PlannedSeason(labels=labels, selection=selection, assignment=assignment, plans={})
    return _with_plans(season, pipeline, earlier.retried)


def plan_retry(season: PlannedSeason, pipeline: SeasonPipeline, rejects: pa.Table) -> PlannedSeason:
    """The same with one more edition, of photographs that were rejected.

    Args:
        season: planned as it stands.
        pipeline: of that season.
        rejects: rows of ``REJECT_SCHEMA``; some.
    """
    folders = pipeline.by_folder()
    assignment = season.assignment.retrying(rejects, next(iter(folders.values())))
    retried = pa.concat_tables([next(iter(season.plans.values())).retried, rejects])
    return _with_plans(replace(season, assignment=assignment), pipeline, retried)


def _with_plans(
    season: PlannedSeason, pipeline: SeasonPipeline, retried: pa.Table
) -> PlannedSeason:
    folders = pipeline.by_folder()
    pipelines = list(folders.values())
    plans = make_plans(season.selection, pipelines, encoder_version(), season.assignment)
    by_folder = {
        folder: replace(plan, retried=retried) for folder, plan in zip(folders, plans, strict=True)
    }
    return replace(season, plans=by_folder)


def another_plan(url: str, reason: str) -> ConfigError:
    """The error of a plan that does not go on with that at ``url``."""
    return ConfigError(
        f"{url} already holds a conversion with another plan: {reason}. "
        "Give a new --output, or set it back as it was"
    )


def source_of(pipeline: SeasonPipeline) -> Store:
    """Where labels and photographs lie."""
    return Store(url=pipeline.source, options=pipeline.storage_options)
