"""Growth and retries: pure, whatever is added, what was assigned before stays as it was."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.checks import Overview
from serengeti_etl.catalog.read import Labels
from serengeti_etl.config import SeasonPipeline, ShardSettings
from serengeti_etl.convert.assignment import Assignment
from serengeti_etl.convert.plan import Plan
from serengeti_etl.convert.planned import Earlier, PlannedSeason, plan_labels, plan_retry
from serengeti_etl.dataset.index import REJECT_SCHEMA
from serengeti_etl.errors import ConfigError
from serengeti_etl.label_config import FractionSplit, Rules
from tests.catalog_factory import make_catalog
from tests.convert.test_plan import PIPELINE

CATEGORIES = ("empty", "lion", "aardvark", "zebra")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A sequence of the catalog.

    Attributes:
        step: with which it comes.
        site: number of its site.
        category: of all its frames.
        num_frames: how many.
    """

    step: int
    site: int
    category: str
    num_frames: int


SEQUENCES = st.lists(
    st.builds(
        Drawn,
        step=st.integers(0, 2),
        site=st.integers(0, 7),
        category=st.sampled_from(CATEGORIES),
        num_frames=st.integers(1, 4),
    ),
    min_size=6,
    max_size=40,
)


def labels_of(sequences: list[Drawn], step: int) -> Labels:
    """The catalog after ``step``."""
    rows: list[dict[str, Any]] = [
        {
            "image_id": f"s{at:03}_{frame}",
            "seq_id": f"s{at:03}",
            "frame_num": frame,
            "file_name": f"s{at:03}_{frame}.jpg",
            "site": f"site{one.site}",
            "season": f"S{one.step}",
            "labels": [one.category],
        }
        for at, one in enumerate(sequences)
        if one.step <= step
        for frame in range(1, one.num_frames + 1)
    ]
    names = ("image_id", "seq_id", "frame_num", "file_name", "site", "season", "labels")
    table = make_catalog({name: [row[name] for row in rows] for name in names})
    overview: Any = Overview.__new__(Overview)  # nobody looks at it
    return Labels(
        labels_format="coco", images=table, annotations_path=Path(), overview=overview, findings=()
    )


def first_plan(labels: Labels, pipeline: SeasonPipeline) -> PlannedSeason:
    """The first edition, if the drawn catalog gives one."""
    try:
        return plan_labels(labels, pipeline)
    except ConfigError:
        reject()


def earlier_of(season: PlannedSeason) -> Earlier:
    before, after = season.assignment.parted()
    return Earlier(url="here", before=before, after=after, retried=plan_of(season).retried)


def grown(season: PlannedSeason, labels: Labels, pipeline: SeasonPipeline) -> PlannedSeason:
    whole = Earlier(url="here", before=season.assignment, retried=plan_of(season).retried)
    return plan_labels(labels, pipeline, whole)


def plan_of(season: PlannedSeason) -> Plan:
    return season.plans[""]


def rejects_of(assignment: Assignment, image_ids: set[str]) -> pa.Table:
    """What a dataset would have, had the last shards of these images rejected them."""
    last = {row["image_id"]: row for row in assignment.rows.to_pylist()}
    rows = [
        {name: last[image_id].get(name, "x") for name in REJECT_SCHEMA.names}
        for image_id in sorted(image_ids)
    ]
    return pa.Table.from_pylist(rows, schema=REJECT_SCHEMA)


def check_laws(old: Plan, new: Plan, num_tries: Counter[str], *, by_site: bool) -> None:
    """What must hold between a plan and one that goes on with it."""
    assert new.shards[: len(old.shards)] == old.shards
    assert new.rows.slice(0, old.rows.num_rows) == old.rows
    assert new.classes[: len(old.classes)] == old.classes
    for split in {shard.split for shard in new.shards}:
        names = [shard.name for shard in new.shards if shard.split == split]
        assert names == [f"{split}-{number:06}" for number in range(len(names))]
    counts = Counter(new.rows["image_id"].to_pylist())
    assert counts == Counter({name: 1 + num_tries[name] for name in counts})
    group = "site" if by_site else "seq_id"
    pairs = new.rows.select([group, "split"]).group_by([group, "split"]).aggregate([])
    assert pc.count_distinct(pairs[group]).as_py() == pairs.num_rows
    assert sum(edition.num_shards for edition in new.editions) == len(new.shards)
    for shard in new.shards:
        assert shard.num_images <= 10


@settings(max_examples=120, deadline=None)
@given(
    sequences=SEQUENCES,
    fraction=st.sampled_from([0.2, 0.5]),
    stratify=st.booleans(),
    by=st.sampled_from(["site", "sequence"]),
    share=st.sampled_from([None, 0.3]),
    limit=st.sampled_from([None, 12]),
    data=st.data(),
)
def test_what_was_planned_stays_whatever_is_added(  # noqa: PLR0913 - drawn settings
    sequences: list[Drawn],
    fraction: float,
    by: Any,
    share: float | None,
    limit: int | None,
    data: st.DataObject,
    *,
    stratify: bool,
) -> None:
    """Old shards, numbers and sides stay, images are in one shard but for retries, in any order."""
    pipeline = replace(
        PIPELINE,
        split=FractionSplit(val_fraction=fraction, stratify=stratify, by=by),
        rules=Rules(max_empty_share=share),
        max_sequences=limit,
        shards=ShardSettings(max_samples=10),
    )
    season = first_plan(labels_of(sequences, 0), pipeline)
    num_tries: Counter[str] = Counter()
    for step in (0, 1, 2):
        labels = labels_of(sequences, step)
        # A larger limit is a way to grow.
        pipeline = replace(pipeline, max_sequences=limit and limit + 6 * step)
        if step:
            old, season = plan_of(season), grown(season, labels, pipeline)
            check_laws(old, plan_of(season), num_tries, by_site=by == "site")
            assert set(season.selection.images["image_id"].to_pylist()) == set(
                plan_of(season).rows["image_id"].to_pylist()
            )
        if data.draw(st.booleans()):
            images = sorted(set(season.assignment.rows["image_id"].to_pylist()))
            tried = data.draw(st.sets(st.sampled_from(images), min_size=1, max_size=9))
            num_tries.update(tried)
            old = plan_of(season)
            season = plan_retry(season, pipeline, rejects_of(season.assignment, tried))
            check_laws(old, plan_of(season), num_tries, by_site=by == "site")
            assert plan_of(season).editions[-1].num_images == len(tried)
            assert plan_of(season).retried.num_rows == num_tries.total()
        # The same catalog again adds nothing.
        again = plan_labels(labels, pipeline, earlier_of(season))
        assert again.plans == season.plans


def test_new_classes_come_after_the_old_ones() -> None:
    """A model's outputs keep their meaning when a category comes that sorts before them."""
    sequences = [
        Drawn(step=at // 8, site=at % 8, category=("lion", "aardvark")[at // 8], num_frames=1)
        for at in range(16)
    ]
    season = plan_labels(labels_of(sequences, 0), PIPELINE)
    season = grown(season, labels_of(sequences, 1), PIPELINE)
    assert plan_of(season).classes == ("lion", "aardvark")
    fresh = plan_labels(labels_of(sequences, 1), PIPELINE)
    assert plan_of(fresh).classes == ("aardvark", "lion")


def test_new_sites_even_out_the_sides() -> None:
    """One new site of many images goes where the shares come nearest, not always to val."""
    shares = []
    for num_new in (2, 60):
        sequences = [Drawn(step=0, site=at % 5, category="lion", num_frames=2) for at in range(50)]
        sequences += [Drawn(step=1, site=7, category="lion", num_frames=2)] * num_new
        pipeline = replace(PIPELINE, split=FractionSplit(val_fraction=0.5))
        season = plan_labels(labels_of(sequences, 0), pipeline)
        season = grown(season, labels_of(sequences, 1), pipeline)
        rows = plan_of(season).rows
        shares.append(pc.mean(pc.equal(rows["split"], "val").cast(pa.int8())).as_py())
    assert all(0.2 < share < 0.8 for share in shares)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("labels", [["zebra"]], r"labels of image s000_1 was \['lion'\] and is now \['zebra'\]"),
        ("site", ["site9"], r"image s000_1, .* \(two_sites"),
        ("file_name", ["x.jpg"], "file_name of image s000_1 was 's000_1.jpg' and is now 'x.jpg'"),
        ("labels", [["human"]], r"image s000_1, which has its place .* is now left out \(dropped"),
    ],
)
def test_an_image_that_is_another_now_is_named(column: str, value: Any, message: str) -> None:
    """The first image, the column and both values, or the rule that would leave it out."""
    sequences = [
        Drawn(step=at // 8, site=at % 8, category="lion", num_frames=2) for at in range(16)
    ]
    season = plan_labels(labels_of(sequences, 0), PIPELINE)
    labels = labels_of(sequences, 1)
    images = labels.images
    at = images.schema.get_field_index(column)
    values = value + images[column].to_pylist()[1:]
    images = images.set_column(
        at, images.schema.field(at), pa.array(values, images.schema[at].type)
    )
    with pytest.raises(ConfigError, match=rf"here already holds .*{message}"):
        grown(season, replace(labels, images=images), PIPELINE)


def test_an_image_that_is_gone_is_named() -> None:
    """A catalog that lost a planned image is another one."""
    sequences = [
        Drawn(step=at // 8, site=at % 8, category="lion", num_frames=2) for at in range(16)
    ]
    season = plan_labels(labels_of(sequences, 1), PIPELINE)
    with pytest.raises(ConfigError, match=r"image s\d+_\d, .* is not listed \(16 such images\)"):
        grown(season, labels_of(sequences, 0), PIPELINE)
