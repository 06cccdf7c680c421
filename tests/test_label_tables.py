"""What the catalog command shows: golden text, so that a change of it is seen and meant."""

from pathlib import Path

import pyarrow as pa

from serengeti_etl.catalog.checks import Finding, Overview
from serengeti_etl.catalog.read import Labels
from serengeti_etl.catalog.selection import select_images
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.label_config import FractionSplit, Rules
from serengeti_etl.label_tables import catalog_text, findings_text
from tests.catalog_factory import make_catalog

SHOWN = """\
labels of season, in the format coco

                             in the file
 ────────────────────────────────────────
  images                              12
  sequences                           12
  sites                                4
  seasons                              1
  annotations                         13
  first photograph   2010-07-18 16:26:14
  last photograph                no date

findings

  finding   count   of       meaning
 ───────────────────────────────────────────────────────────────
  no site       2   images   nobody knows where they were taken

examples of findings

  finding   example
 ───────────────────
  no site   a[red]
  no site   b

categories in the label file

  category   images    share   sequences
 ────────────────────────────────────────
  zebra           9   75.00%           9
  empty           3   25.00%           3

frames per sequence

  frames    sequences
 ─────────────────────
  1             1,200
  2                20
  3                 3
  4                 3
  5                 3
  6                 3
  7                 3
  8                 3
  9 to 39           7

left out

  state      reason       images
 ────────────────────────────────
  excluded   dropped           1
  excluded   unlabelled        1

splits

  split   images   share   sequences   sites
 ────────────────────────────────────────────
  train        8   80.0%           8       3
  val          2   20.0%           2       1

categories by split

  category   train   of train   val   of val
 ────────────────────────────────────────────
  empty          5     62.50%     1   50.00%
  lion           1     12.50%     0    0.00%
  zebra          2     25.00%     1   50.00%

no images in val: lion

"""


def catalog() -> pa.Table:
    """Twelve images at four sites."""
    labels = [["empty"], ["zebra"], ["empty"], ["empty"], ["zebra"], ["lion"]]
    labels += [["human"], ["empty"], [], ["empty"], ["zebra"], ["empty"]]
    names = [f"i{at:02}" for at in range(12)]
    return make_catalog(
        {
            "image_id": names,
            "seq_id": names,
            "frame_num": [1] * 12,
            "file_name": names,
            "site": [f"A{at % 4}" for at in range(12)],
            "season": ["S1"] * 12,
            "labels": labels,
        }
    )


def labels_of(table: pa.Table) -> Labels:
    overview = Overview(
        num_images=12,
        num_sequences=12,
        num_sites=4,
        num_seasons=1,
        num_annotations=13,
        first="2010-07-18 16:26:14",
        last=None,
        frames=(
            (1, 1200),
            (2, 20),
            *((num, 3) for num in range(3, 9)),
            (9, 5),
            (39, 2),
        ),
        categories=(("zebra", 9, 9), ("empty", 3, 3)),
    )
    finding = Finding(
        name="no site",
        meaning="nobody knows where they were taken",
        unit="images",
        count=2,
        examples=("a[red]", "b"),
    )
    return Labels(
        labels_format="coco",
        images=table,
        annotations_path=Path("nowhere"),
        overview=overview,
        findings=(finding,),
    )


PIPELINE = SeasonPipeline(
    name="season", source="x", labels="x.json", split=FractionSplit(val_fraction=0.25)
)


def test_a_catalog_is_shown_with_findings_rules_and_splits() -> None:
    """Counts, oddities, categories, frames, what is left out, and shares by split."""
    table = catalog()
    shown = catalog_text("season", labels_of(table), select_images(table, PIPELINE))
    assert shown == SHOWN


def test_thinning_is_told_and_a_refused_split_shows_the_rest() -> None:
    """Both shares of ``empty`` are said; without a selection the label file is still shown."""
    table = catalog()
    thin = SeasonPipeline(
        name="season",
        source="x",
        labels="x.json",
        split=FractionSplit(val_fraction=0.25),
        rules=Rules(max_empty_share=0.4),
    )
    shown = catalog_text("season", labels_of(table), select_images(table, thin))
    assert shown.endswith("empty sequences of train: 62.5% in truth, 40.0% after thinning\n")
    assert "thinned" in shown
    refused = catalog_text("season", labels_of(table), None)
    assert SHOWN.startswith(refused)
    assert "frames per sequence" in refused


def test_nothing_odd_is_said_so() -> None:
    """A clean label file says that it is."""
    assert findings_text(()) == "nothing odd was found\n\n"
