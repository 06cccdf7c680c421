"""Splits: whole sequences and sites, repeatable, never empty, with every category's share."""

import datetime as dt
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from serengeti_etl.catalog.selection import select_images, splits_json
from serengeti_etl.catalog.splits import shared_sites, split_images
from serengeti_etl.catalog.stratify import choose_val
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.label_config import (
    ColumnSplit,
    FractionSplit,
    SeasonSplit,
    SiteListSplit,
    Split,
    TimeSplit,
)
from serengeti_etl.storage import Store
from tests.catalog_factory import make_catalog

NOWHERE = Store(url="/nowhere")


def catalog(sites: list[str], **columns: Any) -> pa.Table:
    """A catalog with one image per entry; entries of one site are one image each."""
    names = [f"{at:04}" for at in range(len(sites))]
    table = {
        "image_id": names,
        "seq_id": names,
        "frame_num": [1] * len(sites),
        "file_name": [f"{name}.jpg" for name in names],
        "site": sites,
        "season": ["S1"] * len(sites),
        "labels": [["zebra"]] * len(sites),
    }
    return make_catalog(table | columns)


def sides_of(table: pa.Table, split: Split, source: Store = NOWHERE) -> list[str | None]:
    found: list[str | None] = split_images(table, split, source).to_pylist()
    return found


SITES = st.lists(st.sampled_from("ABCDEFGH"), min_size=2, max_size=60).filter(
    lambda names: len(set(names)) > 1
)


@settings(deadline=None)
@given(
    sites=SITES,
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 1000),
    stratify=st.booleans(),
    data=st.data(),
)
def test_no_site_is_on_both_sides(
    sites: list[str], fraction: float, seed: int, *, stratify: bool, data: st.DataObject
) -> None:
    """Whatever sites, labels, fraction and seed, a site is on one side, and neither is empty."""
    category = st.lists(st.sampled_from(["zebra", "lion", "empty"]), max_size=2, unique=True)
    labels = [sorted(data.draw(category)) for _ in sites]
    table = catalog(sites, labels=labels)
    found = sides_of(table, FractionSplit(val_fraction=fraction, seed=seed, stratify=stratify))
    sides: dict[str | None, set[str]] = {"train": set(), "val": set()}
    for site, side in zip(table["site"].to_pylist(), found, strict=True):
        sides[side].add(site)
    assert sides["train"]
    assert sides["val"]
    assert not sides["train"] & sides["val"]


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=4, max_size=40),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["site", "sequence", "season", "time"]),
)
def test_no_sequence_is_on_both_sides(lengths: list[int], seed: int, kind: str) -> None:
    """By site, sequence, season or time, the frames of a sequence stay together."""
    at = [number for number, length in enumerate(lengths) for _ in range(length)]
    rng = random.Random(seed)  # noqa: S311
    start = dt.datetime(2020, 1, 1)  # noqa: DTZ001
    table = catalog(
        [f"A{number % 3}" for number in at],
        seq_id=[f"s{number:03}" for number in at],
        frame_num=list(range(1, len(at) + 1)),
        season=[f"S{number % 2}" for number in at],
        datetime=[
            start + dt.timedelta(days=number, seconds=rng.randrange(200_000) if later else 0)
            for number, length in enumerate(lengths)
            for later in range(length)
        ],
    )
    splits: dict[str, Split] = {
        "site": FractionSplit(seed=seed),
        "sequence": FractionSplit(by="sequence", val_fraction=0.4, seed=seed),
        "season": SeasonSplit(val=("S1",)),
        "time": TimeSplit(val_from="2020-01-03"),
    }
    found = sides_of(table, splits[kind])
    pairs = set(zip(table["seq_id"].to_pylist(), found, strict=True))
    assert len(pairs) == len(lengths)


def test_the_seed_decides_which_sites() -> None:
    """The same seed gives the same sites, and another seed gives others."""
    table = catalog([chr(65 + at) for at in range(26)])
    for stratify in (True, False):
        once = sides_of(table, FractionSplit(seed=1, stratify=stratify))
        assert once == sides_of(table, FractionSplit(seed=1, stratify=stratify))
        assert once != sides_of(table, FractionSplit(seed=2, stratify=stratify))
        assert once.count("val") == 5


def test_the_order_of_rows_does_not_decide() -> None:
    """Shuffled rows give every site the same side."""
    table = catalog(list("ABCDEFGHAABBCCDD"), labels=[["zebra"], ["lion"]] * 8)
    there = dict(zip(table["site"].to_pylist(), sides_of(table, FractionSplit()), strict=True))
    shuffled = table.take(pa.array(np.random.default_rng(0).permutation(table.num_rows)))
    again = dict(
        zip(shuffled["site"].to_pylist(), sides_of(shuffled, FractionSplit()), strict=True)
    )
    assert again == there


def drawn_counts(seed: int, num_sites: int = 120, num_categories: int = 40) -> Any:
    """Images of each category at each site, uneven as in the field: most species at few sites."""
    rng = np.random.default_rng(seed)
    size_S = rng.lognormal(6, 1, num_sites)
    share_C = rng.zipf(1.6, num_categories)[None] / 50
    presence_SC = rng.random((num_sites, num_categories)) < rng.beta(0.6, 1.2, num_categories)
    return rng.poisson(size_S[:, None] / 60 * share_C * presence_SC).astype(np.int64)


def deviation(counts_SC: Any, is_val: Any, wanted: float) -> float:
    """Mean distance of each category's share in val from the wanted one."""
    totals_C = counts_SC.sum(axis=0)
    shares_C = counts_SC[is_val].sum(axis=0)[totals_C > 0] / totals_C[totals_C > 0]
    return float(np.abs(shares_C - wanted).mean())


# scikit-learn says that some categories are rarer than its folds; so they are.
@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(4))
def test_stratified_sites_beat_scikit_learn_s_groups_and_a_plain_draw(seed: int) -> None:
    """Categories' shares lie nearer to the wanted 20 % than by StratifiedGroupKFold or by lot."""
    counts_SC = drawn_counts(seed)
    ours = deviation(counts_SC, choose_val(counts_SC, 200_000), 0.2)
    plain = deviation(counts_SC, np.arange(len(counts_SC)) < 24, 0.2)
    num_each = counts_SC[np.nonzero(counts_SC)]
    sites, categories = (np.repeat(at, num_each) for at in np.nonzero(counts_SC))
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=seed)
    peers = []
    for _, test in folds.split(sites, categories, groups=sites):
        is_val = np.zeros(len(counts_SC), dtype=np.bool_)
        is_val[np.unique(sites[test])] = True
        peers.append(deviation(counts_SC, is_val, 0.2))
    assert ours < min(peers)
    assert ours < 0.7 * plain


def test_a_category_of_two_sites_is_on_both_sides() -> None:
    """However rare, a category that can be in train and in val is in both."""
    counts_SC = np.array([[100, 1], [100, 0], [100, 0], [100, 1], [100, 0], [100, 0]])
    is_val = choose_val(counts_SC, 200_000)
    assert counts_SC[is_val, 1].sum() == 1


def test_many_sites_are_stratified_by_single_moves() -> None:
    """Where pairs are too many to try, the shares still come near."""
    counts_SC = drawn_counts(5, num_sites=1500)
    plain = deviation(counts_SC, np.arange(len(counts_SC)) < 300, 0.2)
    assert deviation(counts_SC, choose_val(counts_SC, 200_000), 0.2) < plain / 2


def test_sequences_are_stratified_by_their_rarest_category() -> None:
    """By sequence each category has its share in val, and so has the whole."""
    labels = [["lion", "zebra"] if at % 20 == 0 else ["zebra"] for at in range(400)]
    table = catalog(["A"] * 400, labels=labels)
    found = sides_of(table, FractionSplit(by="sequence", val_fraction=0.25))
    assert found.count("val") == 100
    lions = [side for side, names in zip(found, labels, strict=True) if "lion" in names]
    assert lions.count("val") == 5


def test_a_list_of_sites(tmp_path: Path) -> None:
    """Sites go where the list says; a site in no list has no split."""
    lists = {"splits": {"train": ["A"], "val": ["B"], "test": ["D"]}}
    (tmp_path / "sites.json").write_text(json.dumps(lists))
    table = catalog(["A", "B", "C", "D"])
    found = sides_of(table, SiteListSplit(url="sites.json"), Store(url=str(tmp_path)))
    assert found == ["train", "val", None, "test"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"splits": {"train": ["A"], "val": ["A"]}}', "puts site 'A' into train and into val"),
        ('{"train": ["A"]}', "must hold"),
        ('{"splits": ["A"]}', "must hold"),
        ("not json", "must hold"),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    """A site in both lists and a file of another shape are refused."""
    (tmp_path / "sites.json").write_text(text)
    with pytest.raises(CatalogError, match=message):
        sides_of(catalog(["A"]), SiteListSplit(url="sites.json"), Store(url=str(tmp_path)))


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    """A list whose val sites do not occur, or a single site, cannot be split."""
    (tmp_path / "sites.json").write_text('{"splits": {"train": ["A"], "val": ["Z"]}}')
    with pytest.raises(ConfigError, match="'val' would hold no images"):
        sides_of(catalog(["A"]), SiteListSplit(url="sites.json"), Store(url=str(tmp_path)))
    with pytest.raises(ConfigError, match="'train' would hold no images"):
        sides_of(catalog(["A"]), FractionSplit())
    with pytest.raises(ConfigError, match="'train' would hold no images"):
        sides_of(catalog(["A"] * 3), FractionSplit(stratify=False))
    with pytest.raises(ConfigError, match="'train' would hold no images"):
        sides_of(catalog(["A"] * 3), TimeSplit(val_from="2020-01-01"))


def test_sites_must_be_known_to_be_kept_apart() -> None:
    """Without sites a split by site is refused, and one by sequence works when asked for."""
    table = catalog(["", "", "", "A"])
    with pytest.raises(ConfigError, match='by="sequence"'):
        sides_of(table, FractionSplit())
    found = sides_of(table, FractionSplit(by="sequence", val_fraction=0.5))
    assert sorted(str(side) for side in found) == ["train", "train", "val", "val"]


def test_by_season_and_by_time() -> None:
    """Seasons and days decide; what is in neither, or has no time, has no split."""
    seasons = ["S1", "S2", "S3", "S4"]
    table = catalog(list("ABCD"), season=seasons)
    assert sides_of(table, SeasonSplit(val=("S2",))) == ["train", "val", "train", "train"]
    named = SeasonSplit(val=("S2",), train=("S1", "S3"))
    assert sides_of(table, named) == ["train", "val", "train", None]
    with pytest.raises(ConfigError, match="names season 'S9'"):
        sides_of(table, SeasonSplit(val=("S9",)))
    days = [dt.datetime(2013, month, 1) for month in (1, 4, 8)]  # noqa: DTZ001
    table = catalog(list("ABCD"), datetime=[*days, None])
    assert sides_of(table, TimeSplit(val_from="2013-04-01")) == ["train", "val", "val", None]
    between = TimeSplit(val_from="2013-07-01", train_until="2013-02-01")
    assert sides_of(table, between) == ["train", None, "val", None]


def test_a_sequence_over_the_cut_belongs_where_it_begins() -> None:
    """A burst that begins before the day and ends after it is in train, whole."""
    days = [dt.datetime(2013, 3, 31), dt.datetime(2013, 4, 1), dt.datetime(2013, 4, 2)]  # noqa: DTZ001
    table = catalog(list("AAB"), seq_id=["s", "s", "t"], frame_num=[1, 2, 1], datetime=days)
    assert sides_of(table, TimeSplit(val_from="2013-04-01")) == ["train", "train", "val"]


def test_by_the_file_s_own_column() -> None:
    """Given splits are taken, torn sequences and odd names are refused, as is a file without."""
    table = catalog(list("ABCD"), given_split=["train", "val", "test", None])
    assert sides_of(table, ColumnSplit()) == ["train", "val", "test", None]
    with pytest.raises(ConfigError, match="gives no split"):
        sides_of(catalog(["A"]), ColumnSplit())
    with pytest.raises(CatalogError, match="split 'a/b'"):
        sides_of(catalog(["A"], given_split=["a/b"]), ColumnSplit())
    torn = catalog(["A", "A"], seq_id=["s", "s"], given_split=["train", "val"])
    with pytest.raises(CatalogError, match="1 sequences would be torn between splits, such as 's'"):
        sides_of(torn, ColumnSplit())


@pytest.mark.parametrize(
    "make",
    [
        lambda: SeasonSplit(val=()),
        lambda: SeasonSplit(val=("S1",), train=("S1",)),
        lambda: TimeSplit(val_from="last summer"),
        lambda: TimeSplit(val_from="2013-13-01"),
        lambda: TimeSplit(val_from="2013-01-01", train_until="2014-01-01"),
        lambda: ColumnSplit(shared_sites="maybe"),  # type: ignore[arg-type]
        lambda: FractionSplit(val_fraction=1.0),
    ],
)
def test_impossible_splits_are_refused_when_built(make: Any) -> None:
    """No seasons, overlapping sides, days that are none, and unknown words."""
    with pytest.raises(ConfigError):
        make()


def two_seasons(shared: Any = "refuse") -> tuple[pa.Table, SeasonPipeline]:
    """Sites A and B in both seasons, C in S1 and D in S2 only; val is S2."""
    table = catalog(list("ABCABD"), season=["S1"] * 3 + ["S2"] * 3)
    split = SeasonSplit(val=("S2",), shared_sites=shared)
    return table, SeasonPipeline(name="p", source="x", labels="x.json", split=split)


def test_sites_on_both_sides_are_refused_unless_asked_for() -> None:
    """Refused with their number; excluded from train and counted; or allowed, and said so."""
    table, pipeline = two_seasons()
    with pytest.raises(ConfigError, match="2 sites would be in more than one split, such as 'A'"):
        select_images(table, pipeline)
    table, pipeline = two_seasons("exclude")
    found = select_images(table, pipeline)
    assert found.excluded["reason"].to_pylist() == ["shared_site"] * 2
    assert shared_sites(found.images, found.images["split"]) == []
    assert splits_json(found, pipeline)["splits"] == {"train": ["C"], "val": ["A", "B", "D"]}
    table, pipeline = two_seasons("allow")
    found = select_images(table, pipeline)
    assert found.excluded.num_rows == 0
    assert splits_json(found, pipeline)["sites_are_disjoint"] is False


def test_a_written_split_splits_the_same_again(tmp_path: Path) -> None:
    """splits.json given as a site list makes the very same split."""
    table = catalog([chr(65 + at % 20) for at in range(100)])
    pipeline = SeasonPipeline(name="p", source=str(tmp_path), labels="x.json")
    once = select_images(table, pipeline)
    (tmp_path / "splits.json").write_text(json.dumps(splits_json(once, pipeline)))
    again = sides_of(table, SiteListSplit(url="splits.json"), Store(url=str(tmp_path)))
    assert again == once.images["split"].to_pylist()


def test_the_published_split(shared_data: Path) -> None:
    """The real list has 179 train and 46 val sites, and none in both."""
    store = Store(url=str(shared_data / "serengeti"))
    lists = store.read_json("recommended_splits.json")["splits"]
    table = catalog([*lists["train"], *lists["val"]])
    found = sides_of(table, SiteListSplit(url="recommended_splits.json"), store)
    assert (found.count("train"), found.count("val")) == (179, 46)
