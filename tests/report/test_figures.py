"""Figures of a dataset, against pandas over its index."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serengeti_etl.dataset import index
from serengeti_etl.dataset.index import Dataset
from serengeti_etl.report.figures import PER_CATEGORY, PER_SITE, Figures, count_figures
from tests.report_factory import captures_of, make_dataset


@pytest.fixture(params=[7, 131_072])
def dataset(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Dataset:
    """Of 120 sequences, its index in many row groups or in one."""
    monkeypatch.setattr(index, "ROWS_PER_GROUP", request.param)
    return make_dataset(str(tmp_path / "dataset"), captures_of(120))


@pytest.fixture
def figures(dataset: Dataset) -> Figures:
    """What is counted of it."""
    return count_figures(dataset)


@pytest.fixture
def frame(dataset: Dataset) -> pd.DataFrame:
    """All of its index."""
    everything: pd.DataFrame = dataset.index().to_pandas()
    return everything


def test_counts_are_those_of_pandas(
    dataset: Dataset, figures: Figures, frame: pd.DataFrame
) -> None:
    """Images, sequences, bytes, seasons, and images of each category in each split."""
    assert figures.num_images == len(frame)
    assert figures.num_sequences == frame["seq_id"].nunique()
    assert figures.num_bytes == frame["num_bytes"].sum()
    assert figures.source_num_bytes == frame["source_num_bytes"].sum()
    assert dict(figures.seasons) == frame["season"].value_counts().to_dict()
    counted = frame.explode("labels").groupby(["labels", "split"]).size()
    for name, by_split in figures.categories.items():
        for split, number in by_split.items():
            assert number == counted.get((name, split), 0)
    assert list(figures.categories) == list(dataset.classes)
    for one in figures.splits:
        part = frame[frame["split"] == one.name]
        assert (one.num_images, one.num_sequences, one.num_sites) == (
            len(part),
            part["seq_id"].nunique(),
            part["site"].nunique(),
        )


def test_hours_are_those_of_pandas(figures: Figures, frame: pd.DataFrame) -> None:
    """Images with animals and empty ones by hour; those without a date apart."""
    is_empty = frame["labels"].map(lambda labels: "empty" in labels)
    hours = frame["datetime"].dt.hour
    for counted, mask in zip(figures.hours, (~is_empty, is_empty), strict=True):
        expected = hours[mask].value_counts().reindex(range(24), fill_value=0)
        assert list(counted) == expected.tolist()
    assert figures.num_undated == frame["datetime"].isna().sum() > 0
    assert sum(map(sum, figures.hours)) + figures.num_undated == len(frame)


def test_sites_are_those_of_pandas(figures: Figures, frame: pd.DataFrame) -> None:
    """Images, share of empty ones, first and last day of each, the largest first."""
    frame["is_empty"] = frame["labels"].map(lambda labels: "empty" in labels)
    by_site = frame.groupby("site")
    assert {site.name for site in figures.sites} == set(frame["site"])
    counts = [site.num_images for site in figures.sites]
    assert counts == sorted(counts, reverse=True)
    for site in figures.sites:
        part = by_site.get_group(site.name)
        assert (site.num_images, site.num_empty) == (len(part), part["is_empty"].sum())
        assert (site.first, site.last) == (part["datetime"].min(), part["datetime"].max())
        assert site.splits == tuple(sorted(set(part["split"])))


def test_samples_are_of_their_group_and_of_sequences_of_their_own(
    figures: Figures, frame: pd.DataFrame
) -> None:
    """As many as there are sequences, up to a limit, each with its category or site."""
    rows = frame.set_index("image_id")
    for name, found in figures.by_category.items():
        of_name = frame[[name in labels for labels in frame["labels"]]]
        assert len(found) == min(PER_CATEGORY, of_name["seq_id"].nunique())
        assert {one.image_id for one in found} <= set(of_name["image_id"])
        assert len({one.seq_id for one in found}) == len(found)
    for site, found in figures.by_site.items():
        assert len(found) == min(PER_SITE, frame[frame["site"] == site]["seq_id"].nunique())
        assert {one.site for one in found} == {site}
    one = figures.by_category["zebra"][0]
    row = rows.loc[one.image_id]
    assert (one.offset, one.num_bytes, one.frame_num) == tuple(
        row[["offset", "num_bytes", "frame_num"]]
    )
    assert one.tar == f"{row['split']}/{row['shard']}.tar"


def test_samples_do_not_depend_on_how_the_index_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same photographs are chosen from one row group or from many."""
    found = []
    for size in (5, 64, 131_072):
        monkeypatch.setattr(index, "ROWS_PER_GROUP", size)
        figures = count_figures(make_dataset(str(tmp_path / str(size)), captures_of(120)))
        found.append((figures.by_category, figures.by_site))
    assert found[0] == found[1] == found[2]


def test_the_training_order_has_every_site_and_start(
    dataset: Dataset, figures: Figures, frame: pd.DataFrame
) -> None:
    """A number for each image's site in the order of the shards, and where sequences start."""
    train = frame[frame["split"] == "train"].reset_index(drop=True)
    assert figures.train is not None
    numbers = figures.train.sites_N
    pairs = set(zip(train["site"], numbers.tolist(), strict=True))
    assert len(pairs) == train["site"].nunique() == len(set(numbers.tolist()))
    runs = train["seq_id"] + train["shard"]
    assert figures.train.starts_G.tolist() == np.flatnonzero(runs != runs.shift()).tolist()
    assert len(dataset.shards("train")) > 1


def test_a_dataset_without_images_has_figures_too(tmp_path: Path) -> None:
    """Everything is zero, and nothing is a fault."""
    figures = count_figures(make_dataset(str(tmp_path / "dataset"), []))
    assert (figures.num_images, figures.num_sequences, figures.sites) == (0, 0, ())
    assert figures.train is None
    assert figures.by_category == dict.fromkeys(figures.categories, ())
