"""The plan: pure, repeatable, whole sequences, shards within their limit, nothing lost."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.selection import select_images
from serengeti_etl.config import MIB, ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert.plan import Plan, make_plan
from serengeti_etl.errors import ConfigError
from serengeti_etl.label_config import FractionSplit, Rules
from tests.catalog_factory import make_catalog

PIPELINE = SeasonPipeline(
    name="p",
    source="nowhere",
    labels="x.json",
    split=FractionSplit(val_fraction=0.3, stratify=False),
    shards=ShardSettings(max_samples=10),
)


def catalog(lengths: list[int], labels: dict[int, list[str]] | None = None) -> pa.Table:
    """A catalog with one sequence of each length, over five sites."""
    rows: list[dict[str, Any]] = []
    for at, length in enumerate(lengths):
        for frame in range(1, length + 1):
            name = f"s{at:03}_{frame}"
            labelled = (labels or {}).get(at, ["zebra" if at % 2 else "empty"])
            rows.append(
                {
                    "image_id": name,
                    "seq_id": f"s{at:03}",
                    "frame_num": frame,
                    "file_name": f"{name}.jpg",
                    "site": f"site{at % 5}",
                    "season": "S1",
                    "datetime": None,
                    "labels": labelled,
                }
            )
    return make_catalog({name: [row[name] for row in rows] for name in rows[0]})


def plan_of(table: pa.Table, pipeline: SeasonPipeline = PIPELINE, encoder: str = "e 1") -> Plan:
    return make_plan(select_images(table, pipeline), pipeline, encoder)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=5, max_size=80),
    limit=st.integers(5, 40),
    seed=st.integers(0, 9),
)
def test_every_image_is_in_one_shard_with_its_sequence(
    lengths: list[int], limit: int, seed: int
) -> None:
    """Nothing lost or doubled; a sequence is whole, in order, in one shard of limited size."""
    pipeline = replace(PIPELINE, shards=ShardSettings(max_samples=limit, seed=seed))
    table = catalog(lengths)
    plan = plan_of(table, pipeline)
    rows = plan.rows.to_pylist()
    assert sorted(row["image_id"] for row in rows) == sorted(table["image_id"].to_pylist())
    assert sum(shard.num_images for shard in plan.shards) == len(rows)
    homes: dict[str, set[str]] = {}
    for shard in plan.shards:
        part = plan.shard_rows(shard).to_pylist()
        assert 0 < len(part) == shard.num_images <= limit
        assert {row["shard"] for row in part} == {shard.name}
        assert {row["split"] for row in part} == {shard.split}
        for row in part:
            homes.setdefault(row["seq_id"], set()).add(shard.name)
    assert all(len(shards) == 1 for shards in homes.values())
    frames = [(row["seq_id"], row["frame_num"]) for row in rows]
    for (seq, frame), (next_seq, next_frame) in pairwise(frames):
        assert (next_frame == frame + 1) if seq == next_seq else next_frame == 1


def test_the_plan_repeats_and_the_seed_changes_it() -> None:
    """Same arguments, same plan; another seed, another order; another size, other prints."""
    table = catalog([3] * 40)
    one, two = plan_of(table), plan_of(table)
    other = plan_of(table, replace(PIPELINE, shards=ShardSettings(max_samples=10, seed=1)))
    smaller = plan_of(table, replace(PIPELINE, resize=ResizeSettings(size="256")))
    assert one == two
    assert one.rows != other.rows
    assert one.plan_hash != other.plan_hash
    assert one.rows == smaller.rows
    assert {s.fingerprint for s in one.shards}.isdisjoint(s.fingerprint for s in smaller.shards)


def test_whatever_decides_bytes_changes_the_fingerprint() -> None:
    """Another libvips, another label or another file name is another shard; a mirror is not."""
    table = catalog([1] * 10)
    base = plan_of(table)
    assert plan_of(table, encoder="e 2").plan_hash != base.plan_hash
    relabelled = plan_of(catalog([1] * 10, {3: ["lion"]}))
    assert relabelled.plan_hash != base.plan_hash
    changed = [
        a.fingerprint != b.fingerprint for a, b in zip(base.shards, relabelled.shards, strict=True)
    ]
    assert sum(changed) == 1
    assert plan_of(table, replace(PIPELINE, source="s3://mirror")).plan_hash == base.plan_hash


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    """A golden value: if it changes, finished conversions could not be continued."""
    plan = plan_of(catalog([1, 2, 3, 2, 1]))
    assert [shard.fingerprint[:16] for shard in plan.shards] == GOLDEN_FINGERPRINTS


GOLDEN_FINGERPRINTS = ["3a0f953f2c9d7e89", "2c9d17decf0dc571"]


def test_rules_keep_images_out_with_their_reason() -> None:
    """Dropped and unlabelled images are excluded; a repeated file is a duplicate."""
    table = catalog([1] * 10, {1: ["human"], 2: [], 3: ["zebra", "human"]})
    files = table["file_name"].to_pylist()
    files[5] = files[4]
    firsts = [None] * 10
    firsts[5] = table["image_id"][4].as_py()
    for name, values in (("file_name", files), ("duplicate_of", firsts)):
        at = table.schema.get_field_index(name)
        table = table.set_column(
            at, table.schema.field(name), pa.chunked_array([values], pa.string())
        )
    plan = plan_of(table)
    found = {row["image_id"]: (row["state"], row["reason"]) for row in plan.excluded.to_pylist()}
    assert found == {
        "s001_1": ("excluded", "dropped"),
        "s002_1": ("excluded", "unlabelled"),
        "s003_1": ("excluded", "dropped"),
        "s005_1": ("duplicate", "same_file"),
    }
    (duplicate,) = [row for row in plan.excluded.to_pylist() if row["state"] == "duplicate"]
    assert duplicate["message"] == "s004_1"
    assert plan.rows.num_rows + plan.excluded.num_rows == table.num_rows
    assert plan.classes == ("empty", "zebra")


def test_a_limit_keeps_whole_sequences() -> None:
    """``max_sequences`` keeps that many, all of their frames, and counts the rest."""
    plan = plan_of(catalog([3] * 40), replace(PIPELINE, max_sequences=20))
    assert pc.count_distinct(plan.rows["seq_id"]).as_py() == 20
    assert plan.rows.num_rows == 60
    assert set(plan.excluded["reason"].to_pylist()) == {"limit"}


def test_impossible_plans_are_refused() -> None:
    """A sequence longer than a shard, a class that is not listed, and nothing left over."""
    with pytest.raises(ConfigError, match="a sequence has 12 frames"):
        plan_of(catalog([12] * 10))
    with pytest.raises(ConfigError, match="does not list 'zebra'"):
        plan_of(catalog([1] * 10), replace(PIPELINE, classes=("empty",)))
    with pytest.raises(ConfigError, match="no images are left"):
        plan_of(catalog([1] * 10), replace(PIPELINE, rules=Rules(drop=("zebra", "empty"))))


def test_given_classes_keep_their_order() -> None:
    """The model's outputs are in the order of the pipeline file."""
    plan = plan_of(catalog([1] * 10), replace(PIPELINE, classes=("zebra", "empty", "lion")))
    assert plan.classes == ("zebra", "empty", "lion")


def test_shards_are_sized_by_bytes_and_by_samples() -> None:
    """The smaller of the two limits holds; larger photographs mean fewer per shard."""
    by_bytes = ShardSettings(target_bytes=MIB, max_samples=10_000)
    assert by_bytes.num_samples(ResizeSettings(size="512x384")) == 14
    assert by_bytes.num_samples(ResizeSettings(size="256x192")) == 54
    assert ShardSettings(max_samples=5).num_samples(ResizeSettings(size="512")) == 5


def test_sequences_of_one_site_are_spread_over_shards() -> None:
    """Shards are random samples of their split: the natural order of sites is gone."""
    table = catalog([2] * 200)
    plan = plan_of(table, replace(PIPELINE, shards=ShardSettings(max_samples=40)))
    train = [shard for shard in plan.shards if shard.split == "train"]
    sites = [pc.count_distinct(plan.shard_rows(shard)["site"]).as_py() for shard in train]
    assert len(train) >= 6
    assert min(sites) >= 3
