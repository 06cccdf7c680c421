"""Splits: whole sites, repeatable, never empty."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.catalog.splits import split_catalog
from serengeti_etl.catalog.table import make_catalog
from serengeti_etl.config import FractionSplit, SiteListSplit
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.storage import Store

NOWHERE = Store(url="/nowhere")


def catalog(sites: list[str]) -> pa.Table:
    """A catalog with one image per entry; entries of one site are one image each."""
    count = len(sites)
    return make_catalog(
        {
            "image_id": [f"image{at}" for at in range(count)],
            "seq_id": [f"seq{at}" for at in range(count)],
            "frame_num": [1] * count,
            "file_name": [f"{at}.jpg" for at in range(count)],
            "site": sites,
            "season": ["S1"] * count,
            "datetime": [None] * count,
            "labels": [["zebra"]] * count,
        }
    )


@given(
    sites=st.lists(st.sampled_from("ABCDEFGH"), min_size=2, max_size=60).filter(
        lambda names: len(set(names)) > 1
    ),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
)
def test_no_site_is_on_both_sides(sites: list[str], fraction: float, seed: int) -> None:
    """Whatever the sites, fraction and seed, a site is in train or in val, and neither is empty."""
    table = catalog(sites)
    found = split_catalog(table, FractionSplit(val_fraction=fraction, seed=seed), NOWHERE)
    sides: dict[str, set[str]] = {"train": set(), "val": set()}
    for site, side in zip(table["site"].to_pylist(), found.to_pylist(), strict=True):
        sides[side].add(site)
    assert sides["train"]
    assert sides["val"]
    assert not sides["train"] & sides["val"]


def test_the_seed_decides_which_sites() -> None:
    """The same seed gives the same sites, and another seed gives others."""
    table = catalog([chr(65 + at) for at in range(26)])
    once = split_catalog(table, FractionSplit(seed=1), NOWHERE)
    again = split_catalog(table, FractionSplit(seed=1), NOWHERE)
    other = split_catalog(table, FractionSplit(seed=2), NOWHERE)
    assert once == again
    assert once != other
    assert once.to_pylist().count("val") == 5


def test_a_list_of_sites(tmp_path: Path) -> None:
    """Sites go where the list says; a site in neither list has no split."""
    lists = {"splits": {"train": ["A"], "val": ["B"]}}
    (tmp_path / "sites.json").write_text(json.dumps(lists))
    found = split_catalog(
        catalog(["A", "B", "C"]), SiteListSplit(url="sites.json"), Store(url=str(tmp_path))
    )
    assert found.to_pylist() == ["train", "val", None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"splits": {"train": ["A"], "val": ["A"]}}', "puts site 'A' into train and into val"),
        ('{"train": ["A"]}', "must hold"),
        ("not json", "must hold"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    """A site in both lists and a file of another shape are refused."""
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(CatalogError, match=message):
        split_catalog(catalog(["A"]), SiteListSplit(url="sites.json"), Store(url=str(tmp_path)))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    """A list whose val sites do not occur, or a single site, cannot be split."""
    (tmp_path / "sites.json").write_text('{"splits": {"train": ["A"], "val": ["Z"]}}')
    with pytest.raises(ConfigError, match="'val' would hold no images"):
        split_catalog(catalog(["A"]), SiteListSplit(url="sites.json"), Store(url=str(tmp_path)))
    with pytest.raises(ConfigError, match="'train' would hold no images"):
        split_catalog(catalog(["A"]), FractionSplit(), NOWHERE)


def test_sites_must_be_known_to_be_kept_apart() -> None:
    """Without sites a split by site is refused, and one by sequence works when asked for."""
    table = catalog(["", "", "", "A"])
    with pytest.raises(ConfigError, match='by="sequence"'):
        split_catalog(table, FractionSplit(), NOWHERE)
    found = split_catalog(table, FractionSplit(by="sequence", val_fraction=0.5), NOWHERE)
    assert sorted(found.to_pylist()) == ["train", "train", "val", "val"]
