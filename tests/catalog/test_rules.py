"""Rules: what they keep out, counted by rule, and what labels become."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.selection import Selection, select_images
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.errors import ConfigError
from serengeti_etl.label_config import FractionSplit, Rules
from tests.catalog_factory import make_catalog

PIPELINE = SeasonPipeline(
    name="p",
    source="nowhere",
    labels="x.json",
    split=FractionSplit(by="sequence", val_fraction=0.5),
)


def catalog(labels: list[list[str]], **columns: Any) -> pa.Table:
    """A catalog with one image, sequence and site per entry."""
    names = [f"i{at:04}" for at in range(len(labels))]
    table = {
        "image_id": names,
        "seq_id": names,
        "frame_num": [1] * len(names),
        "file_name": [f"{name}.jpg" for name in names],
        "site": [f"site{name}" for name in names],
        "season": ["S1"] * len(names),
        "labels": [sorted(one) for one in labels],
    }
    return make_catalog(table | columns)


def select(table: pa.Table, rules: Rules | None = None, **settings_: Any) -> Selection:
    return select_images(table, replace(PIPELINE, rules=rules or Rules(), **settings_))


def reasons(selection: Selection) -> dict[str, str]:
    rows = selection.excluded.to_pylist()
    return {row["image_id"]: row["reason"] for row in rows}


def labels(selection: Selection) -> list[list[str]]:
    found: list[list[str]] = selection.images["labels"].to_pylist()
    return found


def test_each_rule_keeps_out_what_it_names() -> None:
    """Seasons, sites, people, contradictions, other categories and no labels are counted."""
    table = catalog(
        [
            ["zebra"],
            ["human", "zebra"],
            ["empty", "zebra"],
            [],
            ["bird"],
            ["zebra"],
            ["zebra"],
            ["lion"],
        ],
        season=["S1", "S1", "S1", "S1", "S1", "S2", "S1", "S1"],
    )
    sites = tuple(f"sitei{at:04}" for at in range(8) if at != 6)
    rules = Rules(seasons=("S1",), sites=sites, keep=("zebra", "lion"))
    found = select(table, rules)
    assert reasons(found) == {
        "i0001": "dropped",
        "i0002": "contradiction",
        "i0003": "unlabelled",
        "i0004": "not_kept",
        "i0005": "season",
        "i0006": "site",
    }
    assert labels(found) == [["zebra"], ["lion"]]


def test_categories_are_renamed_merged_and_struck() -> None:
    """Renaming comes first, two old names may become one, and what is not kept is struck."""
    table = catalog([["lionmale", "lionfemale"], ["lionmale", "bird"], ["zebra", "lionfemale"]])
    rename = {"lionmale": "lion", "lionfemale": "lion"}
    assert labels(select(table, Rules(rename=rename))) == [
        ["lion"],
        ["bird", "lion"],
        ["lion", "zebra"],
    ]
    assert labels(select(table, Rules(rename=rename, keep=("lion",)))) == [["lion"]] * 3


def test_rules_can_be_loosened() -> None:
    """People, contradictions and unlabelled images stay where a pipeline says so."""
    table = catalog([["human"], ["empty", "zebra"], [], ["zebra"]])
    loose = Rules(drop=(), contradictions="keep", only_labelled=False)
    assert select(table, loose).images.num_rows == 4


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (Rules(rename={"zebre": "zebra"}), "rules.rename names 'zebre', which does not occur"),
        (Rules(keep=("zebre",)), "rules.keep names 'zebre'"),
        (Rules(drop=("human", "cattel")), "rules.drop names 'cattel'"),
        (Rules(seasons=("S9",)), "rules.seasons names 'S9'"),
        (Rules(sites=("B04",)), "rules.sites names 'B04'"),
        (Rules(drop=("zebra", "empty")), "no images are left"),
    ],
)
def test_rules_that_meet_nothing_are_refused(rules: Rules, message: str) -> None:
    """A misspelt name is told from one that occurs, and an empty rest is refused."""
    with pytest.raises(ConfigError, match=message):
        select(catalog([["zebra"], ["empty"], ["zebra"]]), rules)


@pytest.mark.parametrize(
    "wrong",
    [
        {"drop": "human"},
        {"keep": ()},
        {"keep": ("human",)},
        {"rename": {"a": ""}},
        {"max_empty_share": 1.0},
        {"contradictions": "merge"},
    ],
)
def test_impossible_rules_are_refused_when_built(wrong: dict[str, Any]) -> None:
    """A bare string for names, nothing kept, dropped and kept at once, and shares outside 0-1."""
    with pytest.raises(ConfigError, match="rules"):
        Rules(**wrong)


def test_repeated_files_and_contents_are_duplicates_of_the_first() -> None:
    """The message of a duplicate is the image that it repeats; unknown hashes repeat nothing."""
    table = catalog(
        [["zebra"]] * 6,
        file_name=["a", "b", "a", "d", "e", "f"],
        content_hash=["1", "2", "3", "2", None, None],
        duplicate_of=[None, None, "i0000", "i0001", None, None],
    )
    rows = select(table).excluded.to_pylist()
    told = {row["image_id"]: (row["state"], row["reason"], row["message"]) for row in rows}
    assert told == {
        "i0002": ("duplicate", "same_file", "i0000"),
        "i0003": ("duplicate", "same_content", "i0001"),
    }


def test_a_sequence_at_two_sites_is_left_out_whole() -> None:
    """No split can keep its frames together and its sites apart."""
    table = catalog(
        [["zebra"]] * 4,
        seq_id=["s", "s", "t", "u"],
        frame_num=[1, 2, 1, 1],
        site=["A", "B", "A", "B"],
    )
    assert reasons(select(table)) == {"i0000": "two_sites", "i0001": "two_sites"}


@settings(max_examples=50, deadline=None)
@given(
    sequences=st.lists(
        st.lists(st.sampled_from([("empty",), ("zebra",), ("human",), ()]), min_size=1, max_size=3),
        min_size=8,
        max_size=60,
    ),
    share=st.none() | st.floats(0.05, 0.9),
    limit=st.none() | st.integers(4, 40),
)
def test_every_image_is_kept_or_left_out_for_one_reason(
    sequences: list[list[tuple[str, ...]]], share: float | None, limit: int | None
) -> None:
    """Kept and left-out images are the catalog, each once, whatever the rules."""
    flat = [
        (at, frame, names) for at, one in enumerate(sequences) for frame, names in enumerate(one)
    ]
    table = catalog(
        [list(names) for _, _, names in flat],
        seq_id=[f"s{at:03}" for at, _, _ in flat],
        frame_num=[frame + 1 for _, frame, _ in flat],
        site=[f"A{at % 4}" for at, _, _ in flat],
    )
    try:
        found = select(table, Rules(max_empty_share=share), max_sequences=limit)
    except ConfigError:
        reject()  # too few were left for two splits
    ids = found.images["image_id"].to_pylist() + found.excluded["image_id"].to_pylist()
    assert sorted(ids) == table["image_id"].to_pylist()


def empties(images: pa.Table, split: str) -> float:
    rows = [row for row in images.to_pylist() if row["split"] == split]
    return float(sum(row["labels"] == ["empty"] for row in rows) / len(rows))


def test_empty_is_thinned_in_train_only_and_the_truth_is_kept() -> None:
    """Train comes down to the share, val stays, and the priors tell both."""
    table = catalog([["empty"] if at % 4 else ["zebra"] for at in range(400)])
    whole = select(table)
    thin = select(table, Rules(max_empty_share=0.5))
    assert empties(whole.images, "train") == pytest.approx(0.75, abs=0.02)
    assert empties(thin.images, "train") == pytest.approx(0.5, abs=0.01)
    assert empties(thin.images, "val") == empties(whole.images, "val")
    assert thin.priors["before"]["shares"]["empty"] == empties(whole.images, "train")
    assert thin.priors["after"]["shares"]["empty"] == empties(thin.images, "train")
    assert whole.priors["before"] == whole.priors["after"]
    assert set(reasons(thin).values()) == {"thinned"}
    assert select(table, Rules(max_empty_share=0.5)).images == thin.images
    other = select(
        table,
        Rules(max_empty_share=0.5),
        shards=replace(PIPELINE.shards, seed=1),
    )
    assert other.images != thin.images


def test_a_sequence_with_an_animal_on_one_frame_is_not_thinned() -> None:
    """Thinning takes sequences of which every frame is empty."""
    mixed = [["empty"], ["zebra"]] * 20 + [["empty"], ["empty"]] * 60
    names = [f"s{at // 2:03}" for at in range(160)]
    table = catalog(mixed, seq_id=names, site=names, frame_num=[1, 2] * 80)
    thin = select(table, Rules(max_empty_share=0.2))
    gone = {row["seq_id"] for row in thin.excluded.to_pylist()}
    assert gone
    assert not gone & {f"s{at:03}" for at in range(20)}
