"""What commands show: golden text, so that a change of it is seen and meant."""

from serengeti_etl.convert.season import Conversion
from serengeti_etl.dataset.index import DatasetIndex, ShardInfo
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.tables import conversion_text, plan_text
from serengeti_etl.text_table import table_text
from tests.convert.test_plan import catalog, plan_of

PLAN = """\
plan of season

             shards   images   sequences   sites
 ────────────────────────────────────────────────
  train           2       12           6       3
  val             1        8           4       2
  planned         3       20          10       5
  excluded                 4           2       2
  catalog                 24          12       5

images by class

  class   train   val
 ─────────────────────
  empty       6     6
  zebra       6     2

excluded

  rule         images
 ─────────────────────
  dropped           2
  unlabelled        2

"""

CONVERSION = """\
ledger

  state        reason      images
 ─────────────────────────────────
  in shards                 1,200
  rejected     missing          3
  rejected     truncated        1
  excluded     dropped         40
  duplicates   same_file        2
  catalog                   1,246

shards: 1, of them made now: 1; read 912.0 MB; fetch 0.5 s, resize 30.2 s
"""


def test_a_plan_is_shown_by_split_class_and_rule() -> None:
    """Numbers to the right, nothing cut, and every catalog row in one line of the first table."""
    table = catalog([2] * 12, {3: ["human", "zebra"], 5: []})
    assert plan_text("season", table, plan_of(table)) == PLAN


def test_a_conversion_is_shown_by_its_ledger() -> None:
    """States and reasons add up to the catalog, and the time is told by stage."""
    ledger = Ledger(
        num_images=1246,
        num_in_shards=1200,
        rejected={"missing": 3, "truncated": 1},
        excluded={"dropped": 40},
        duplicates={"same_file": 2},
    )
    ledger.check()
    shard = ShardInfo(
        name="train-000000",
        split="train",
        num_samples=1200,
        num_bytes=10,
        num_rejected=4,
        sha256="",
        fingerprint="",
    )
    index = DatasetIndex(
        name="season",
        classes=("zebra",),
        shards=(shard,),
        ledger=ledger.as_dict(),
        settings={},
        versions={},
        plan_hash="",
    )
    conversion = Conversion(
        index=index,
        ledger=ledger,
        num_made=1,
        num_source_bytes=912_000_000,
        seconds={"fetch": 0.5, "resize": 30.2},
    )
    assert conversion_text(conversion) == CONVERSION


def test_no_rows_are_no_table() -> None:
    """An empty table is left out, title and all."""
    assert table_text("title", ("a", "b"), []) == ""
