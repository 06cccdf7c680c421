"""Rejects by reason, site and day: a bad memory card shows as one site."""

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import (
    CATALOG_FILE,
    REJECT_SCHEMA,
    Dataset,
    open_dataset,
    read_table,
    rejects_name,
    write_table,
)
from serengeti_etl.dataset.rejects import NO_NAME, RejectGroup, RejectGroups, group_rejects
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store
from serengeti_etl.tables import dataset_text, rejects_text


@pytest.fixture(scope="module")
def converted(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The drawn season as a dataset; its own rejects are three. Read only."""
    output = str(tmp_path_factory.mktemp("converted"))
    convert_season(pipeline, SerialRunner(), output)
    return open_dataset(output)


NO_DATE = datetime(1, 1, 1)  # noqa: DTZ001 - a camera's clock has no zone


def test_groups_count_every_reject_once(converted: Dataset) -> None:
    """Each kind of group adds up to the rejects, and names site and day as the catalog does."""
    groups = group_rejects(converted)
    ledger = converted.info.ledger
    assert {one.name: one.num_rejected for one in groups.by_reason} == ledger["rejected"]
    catalog = read_table(converted.store, CATALOG_FILE).to_pylist()
    rejects = [
        row
        for shard in converted.info.shards
        if shard.num_rejected
        for row in read_table(converted.store, rejects_name(shard.name)).to_pylist()
    ]
    for kind in (groups.by_site, groups.by_day):
        assert sum(one.num_rejected for one in kind) == len(rejects) == 3
    days = {row["image_id"]: str((row["datetime"] or NO_DATE).date()) for row in catalog}
    assert {one.name for one in groups.by_site} == {row["site"] for row in rejects}
    assert {one.name for one in groups.by_day} == {days[row["image_id"]] for row in rejects}
    for one in groups.by_site:
        assert one.num_images == sum(row["site"] == one.name for row in catalog)
    for one in groups.by_day:
        assert one.num_images == list(days.values()).count(one.name)


def test_a_bad_card_comes_first(tmp_path: Path, converted: Dataset) -> None:
    """The site with most rejects leads, with its commonest reason, its share and an example."""
    store = Store(url=str(tmp_path))
    names = [f"a{n}" for n in range(8)]
    sites = ["B", "B", "B", "B", "A", "A", "", "C"]
    catalog = {"image_id": names, "site": sites, "datetime": [None] * 8}
    table = pa.table(
        catalog,
        schema=pa.schema(
            {"image_id": pa.string(), "site": pa.string(), "datetime": pa.timestamp("ms")}
        ),
    )
    write_table(store, CATALOG_FILE, table)
    reasons = {"a0": "truncated", "a1": "truncated", "a2": "missing", "a4": "missing", "a6": "grey"}
    rows = [
        {
            "image_id": name,
            "seq_id": "s",
            "site": "",
            "season": "",
            "file_name": f"{name}.jpg",
            "shard": "train-000000",
            "state": "rejected",
            "stage": "resize",
            "reason": reason,
            "message": "",
        }
        for name, reason in reasons.items()
    ]
    shard = next(shard for shard in converted.info.shards if shard.num_rejected)
    mine = Dataset(converted.store)
    mine.store = store
    for one in converted.info.shards:
        part = rows if one == shard else []
        write_table(store, rejects_name(one.name), pa.Table.from_pylist(part, schema=REJECT_SCHEMA))
    groups = group_rejects(mine)
    first = RejectGroup(
        name="B", num_rejected=3, num_images=4, reason="truncated", example="a0.jpg"
    )
    assert groups.by_site[0] == first
    assert [one.name for one in groups.by_site] == ["B", NO_NAME, "A"]
    assert [(one.name, one.num_rejected) for one in groups.by_day] == [(NO_NAME, 5)]
    counts = [(one.name, one.num_rejected) for one in groups.by_reason]
    assert counts == [("missing", 2), ("truncated", 2), ("grey", 1)]


def group(name: str, num_rejected: int) -> RejectGroup:
    return RejectGroup(
        name=name, num_rejected=num_rejected, num_images=200, reason="missing", example="a.jpg"
    )


REJECTS = """\
rejected by reason

  reason    images   example
 ────────────────────────────
  missing       25   a.jpg

rejected by site

  site           images   share of the site   reason
 ─────────────────────────────────────────────────────
  S00                12                6.0%   missing
  S01                11                5.5%   missing
  S02                10                5.0%   missing
  S03                 9                4.5%   missing
  S04                 8                4.0%   missing
  S05                 7                3.5%   missing
  S06                 6                3.0%   missing
  S07                 5                2.5%   missing
  S08                 4                2.0%   missing
  S09                 3                1.5%   missing
  … and 2 more

"""


def test_rejects_are_shown_ten_at_most() -> None:
    """The largest groups, and how many more there are; nothing where there are none."""
    sites = tuple(group(f"S{n:02}", 12 - n) for n in range(12))
    shown = rejects_text(RejectGroups(by_reason=(group("missing", 25),), by_site=sites, by_day=()))
    assert shown == REJECTS
    assert rejects_text(RejectGroups(by_reason=(), by_site=(), by_day=())) == ""


def test_a_dataset_tells_whether_its_ledger_balances(converted: Dataset) -> None:
    """The sums are written out; where they disagree, it is said loudly."""
    shown = dataset_text(converted)
    ledger = converted.info.ledger
    sums = f"{ledger['num_in_shards']} in shards + 3 rejected + 3 excluded + 0 duplicates"
    total = ledger["num_images"]
    assert f"the ledger balances: {sums} = {total}, as in the catalog\n" in shown
    assert "rejected by site" in shown
    lost = open_dataset(converted.store.url)
    lost.info.ledger["excluded"]["dropped"] -= 1
    wrong = f"THE LEDGER DOES NOT BALANCE: {sums.replace('3 ex', '2 ex')} = {total - 1}, but the"
    assert wrong in dataset_text(lost)


def test_damaged_rejects_name_verify(tmp_path: Path, converted: Dataset) -> None:
    """Rejects that are not there are one line that says what to do."""
    lost = open_dataset(converted.store.url)
    lost.store = Store(url=str(tmp_path))
    with pytest.raises(DatasetError, match=r"cannot be read .* run `serengeti-etl verify"):
        group_rejects(lost)
