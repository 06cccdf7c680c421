"""Filters, against pandas as oracle."""

import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.browse.filters import FACETS, ORDERS, Facet, Filter
from serengeti_etl.browse.images import Images, natural, read_images
from serengeti_etl.browse.predictions import read_predictions
from serengeti_etl.browse.query import Found, Query
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.web.answers import PageError
from tests.browse.rows import CATEGORIES, drawn_rows
from tests.dataset_factory import dataset_of_rows

ROWS = drawn_rows(150)
PREDICTED = CATEGORIES[:4]


def probabilities(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Of three rows in four, as ``evaluate`` writes them."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.random((len(rows), len(PREDICTED))), columns=list(PREDICTED))
    table.insert(0, "seq_id", [row["seq_id"] for row in rows])
    table.insert(0, "image_id", [row["image_id"] for row in rows])
    some: pd.DataFrame = table.loc[rng.random(len(rows)) < 0.75]
    shuffled: pd.DataFrame = some.sample(frac=1, random_state=3)
    return shuffled


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of ``ROWS``, whose index has several row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serengeti_etl.dataset.index.ROWS_PER_GROUP", 40)
        return dataset_of_rows(str(tmp_path_factory.mktemp("dataset")), ROWS)


@pytest.fixture(scope="module")
def query(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Query:
    """Over ``ROWS`` and their predictions."""
    path = tmp_path_factory.mktemp("predictions") / "images.parquet"
    probabilities(ROWS).to_parquet(path, row_group_size=50)
    images = read_images(dataset)
    return Query(images, read_predictions(str(path), images))


@pytest.fixture(scope="module")
def oracle(dataset: Dataset) -> pd.DataFrame:
    """The same as a table, in the order of the index."""
    table: pd.DataFrame = dataset.index().to_pandas()
    said = probabilities(ROWS).set_index("image_id")[list(PREDICTED)]
    table["predicted"] = table["image_id"].map(said.idxmax(axis=1))
    table["probability"] = table["image_id"].map(said.max(axis=1))
    table["wrong"] = [
        isinstance(name, str) and name not in labels
        for name, labels in zip(table["predicted"], table["labels"], strict=True)
    ]
    return table


VALUES: dict[Facet, list[str]] = {
    "category": [*CATEGORIES, "unheard of"],
    "site": [f"B{n}" for n in range(1, 14)],
    "season": [f"S{n}" for n in range(1, 13)],
    "split": ["train", "val", "test"],
    "predicted": [*CATEGORIES],
}
DAYS = st.one_of(st.none(), st.dates(dt.date(2011, 12, 1), dt.date(2014, 6, 1)))
FILTERS = st.builds(
    Filter,
    chosen=st.fixed_dictionaries(
        {},
        optional={
            facet: st.lists(st.sampled_from(values), min_size=1, max_size=4, unique=True).map(tuple)
            for facet, values in VALUES.items()
        },
    ),
    since=DAYS,
    until=DAYS,
    is_wrong=st.booleans(),
    order=st.sampled_from(list(ORDERS)),
)


def holds(table: pd.DataFrame, wanted: Filter, leaving_out: Facet | None = None) -> pd.DataFrame:
    """The rows of the oracle that the filter lets through, whatever one of its facets says."""
    keep = pd.Series(data=True, index=table.index)
    for facet, values in wanted.chosen.items():
        if facet == "category" and facet != leaving_out:
            keep &= table["labels"].map(lambda labels, v=values: bool({*labels} & {*v}))
        elif facet != leaving_out:
            keep &= table[facet].isin(values)
    if wanted.since:
        keep &= table["datetime"] >= pd.Timestamp(wanted.since)
    if wanted.until:
        keep &= table["datetime"] < pd.Timestamp(wanted.until) + pd.Timedelta(days=1)
    if wanted.is_wrong:
        keep &= table["wrong"]
    if wanted.order != "place":
        keep &= table["predicted"].notna()
    return table[keep]


def expected_counts(table: pd.DataFrame, wanted: Filter) -> dict[Facet, dict[str, int]]:
    counts: dict[Facet, dict[str, int]] = {}
    for facet in FACETS:
        column = "labels" if facet == "category" else facet
        values = holds(table, wanted, facet)[column].explode().dropna()
        counts[facet] = {str(name): int(n) for name, n in values.value_counts().items()}
    return counts


def check(found: Found, table: pd.DataFrame, wanted: Filter, images: Images) -> None:
    rows = holds(table, wanted)
    assert sorted(found.rows_M) == list(rows.index)
    assert found.num_sequences == rows["seq_id"].nunique()
    assert found.counts == expected_counts(table, wanted)
    ids = [images.image_ids[int(row)].as_py() for row in found.rows_M]
    assert ids == list(table["image_id"].iloc[found.rows_M])


@given(wanted=FILTERS)
@settings(max_examples=200, deadline=None)
def test_a_filter_finds_what_pandas_finds(
    query: Query, oracle: pd.DataFrame, wanted: Filter
) -> None:
    """Rows, sequences and the counts of every facet are those of the same filter in pandas."""
    check(query.find(wanted), oracle, wanted, query.images)


@given(wanted=FILTERS)
@settings(max_examples=100, deadline=None)
def test_images_come_in_the_wanted_order(
    query: Query, oracle: pd.DataFrame, wanted: Filter
) -> None:
    """By season, site, time and frame, or by how certain the prediction is."""
    rows = oracle.iloc[query.find(wanted).rows_M]
    if wanted.order == "place":
        times = rows["datetime"].fillna(pd.Timestamp(0))
        places = zip(rows["season"], rows["site"], times, strict=True)
        keys = [(natural(season), natural(site), time) for season, site, time in places]
        assert keys == sorted(keys)
    else:
        certain = rows["probability"].astype(np.float32)
        assert certain.is_monotonic_decreasing or wanted.order == "unsure"
        assert certain.is_monotonic_increasing or wanted.order == "sure"


@given(wanted=FILTERS)
@settings(max_examples=200, deadline=None)
def test_a_filter_survives_its_address(wanted: Filter) -> None:
    """What an address says is the filter that it was made of."""
    text = wanted.query(page=3)
    assert Filter.of_query(parse_qs(text)) == wanted
    assert text.endswith("page=3")


@given(wanted=FILTERS, facet=st.sampled_from(FACETS), value=st.sampled_from(CATEGORIES))
@settings(max_examples=100, deadline=None)
def test_choosing_twice_is_not_choosing(wanted: Filter, facet: Facet, value: str) -> None:
    """A value that is toggled twice leaves the filter as it was, but for the order of values."""
    once = wanted.toggled(facet, value)
    assert (value in once.chosen.get(facet, ())) != (value in wanted.chosen.get(facet, ()))
    twice = once.toggled(facet, value)
    assert {name: {*values} for name, values in twice.chosen.items()} == {
        name: {*values} for name, values in wanted.chosen.items()
    }


@pytest.mark.parametrize(
    "text", ["since=2012-13-01", "until=yesterday", "order=up", "since=%00", "order=place%20"]
)
def test_an_address_that_makes_no_sense_is_refused(text: str) -> None:
    """No day, or an order that there is not: status 400, and the value in the sentence."""
    with pytest.raises(PageError, match="but it must be") as caught:
        Filter.of_query(parse_qs(text))
    assert caught.value.status == 400


def test_without_predictions_nothing_is_predicted(dataset: Dataset) -> None:
    """A filter on predictions lets nothing through where there are none; others work."""
    images = read_images(dataset)
    plain = Query(images, None)
    assert len(plain.find(Filter(chosen={})).rows_M) == len(ROWS)
    for wanted in (
        Filter(chosen={"predicted": ("zebra",)}),
        Filter(chosen={}, is_wrong=True),
        Filter(chosen={}, order="sure"),
    ):
        assert len(plain.find(wanted).rows_M) == 0


def test_what_predict_writes_is_understood(query: Query, tmp_path: Path) -> None:
    """A table by file gives the same as one by image: keys are made of names as in the catalog."""
    table = probabilities(ROWS)
    best = table[list(PREDICTED)]
    said = pd.DataFrame(
        {
            "file": table["image_id"] + ".JPG",
            "seq_id": table["seq_id"],
            "category": best.idxmax(axis=1),
            "probability": best.max(axis=1),
            "failure": None,
        }
    )
    broken = said.iloc[:1].assign(category=None, probability=None, failure="truncated")
    said = pd.concat([said.iloc[1:], broken])
    said.to_parquet(tmp_path / "predictions.parquet")
    found = read_predictions(str(tmp_path / "predictions.parquet"), query.images)
    (row,) = [query.images.find(name.removesuffix(".JPG")) for name in broken["file"]]
    known = query.predictions
    assert row is not None
    assert known is not None
    assert found.codes_N[row] == -1
    assert not found.is_wrong_N[row]
    for name in ("codes_N", "probability_N", "is_wrong_N"):
        ours, theirs = getattr(found, name), getattr(known, name)
        np.testing.assert_array_equal(np.delete(ours, row), np.delete(theirs, row))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (pa.table({"image_id": ["x/1"], "zebra": [0.5]}), "name none of the dataset's images"),
        (pa.table({"name": ["x/1"], "zebra": [0.5]}), "have no column image_id"),
        (pa.table({"image_id": ["x/1"], "seq_id": ["x"]}), "no column of probabilities"),
        (None, "cannot be read"),
    ],
)
def test_predictions_of_something_else_are_refused(
    dataset: Dataset, tmp_path: Path, table: pa.Table | None, text: str
) -> None:
    """Predictions of other images, tables of other kinds and other files say what they are not."""
    path = tmp_path / "predictions.parquet"
    if table is None:
        path.write_bytes(b"PAR1 nothing PAR1")
    else:
        pq.write_table(table, path)
    with pytest.raises(ConfigError, match=text):
        read_predictions(str(path), read_images(dataset))


def test_frames_and_keys_are_found(query: Query) -> None:
    """An image is found by its key, and with it its sequence in the order of frames."""
    images = query.images
    for one in ROWS[::37]:
        row = images.find(one["image_id"])
        assert row is not None
        ids = [images.image_ids[at].as_py() for at in images.sequence_rows(row)]
        assert ids == [other["image_id"] for other in ROWS if other["seq_id"] == one["seq_id"]]
        assert images.labels(row) == tuple(one["labels"])
        assert images.shard(row).name == one["shard"]
    assert images.find("nothing") is None


def test_names_are_in_the_order_that_a_person_expects() -> None:
    """Numbers count by value, and letters whatever their case."""
    names = ["S10", "s2", "B1", "S1", "", "2", "10", "a1b", "a1"]
    assert sorted(names, key=natural) == ["", "2", "10", "a1", "a1b", "B1", "S1", "s2", "S10"]


def test_an_index_of_other_shards_is_refused(tmp_path: Path) -> None:
    """An index that names a shard which dataset.json does not know: run verify."""
    dataset = dataset_of_rows(str(tmp_path / "a"), ROWS[:20])
    other = [{**row, "shard": f"{row['split']}-9"} for row in ROWS[:20]]
    dataset_of_rows(str(tmp_path / "b"), other)
    (tmp_path / "b" / "index.parquet").replace(tmp_path / "a" / "index.parquet")
    with pytest.raises(DatasetError, match=r"-9', which dataset.json does not know; run `sereng"):
        read_images(dataset)


def test_a_missing_index_is_said(tmp_path: Path) -> None:
    """Without index.parquet, or with a damaged one, there is an error that says what to do."""
    dataset = dataset_of_rows(str(tmp_path), ROWS[:20])
    (tmp_path / "index.parquet").unlink()
    with pytest.raises(DatasetError, match=r"index.parquet .*cannot be read.*verify"):
        read_images(dataset)


@pytest.mark.parametrize("change", [-1, 1])
def test_an_index_of_another_length_is_refused(tmp_path: Path, change: int) -> None:
    """An index with fewer or more images than dataset.json says: run verify."""
    dataset = dataset_of_rows(str(tmp_path), ROWS[:20])
    table = dataset.index()
    other = table.slice(1) if change < 0 else pa.concat_tables([table, table.slice(0, 1)])
    pq.write_table(other, tmp_path / "index.parquet")
    with pytest.raises(DatasetError, match=r"other images than the 20 that .*; run `serengeti-etl"):
        read_images(dataset)
