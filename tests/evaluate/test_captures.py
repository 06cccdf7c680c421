"""Where and when images were taken, looked up by their ids."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from serengeti_etl.dataset.index import INDEX_FILE, Dataset, read_table, write_table
from serengeti_etl.errors import DatasetError
from serengeti_etl.evaluate.captures import read_captures
from tests.dataset_factory import make_dataset


def dated(dataset: Dataset) -> Dataset:
    """The same, every row but the first of each split with an hour of its own."""
    table = read_table(dataset.store, INDEX_FILE)
    midnight = dt.datetime.fromisoformat("2010-08-01T00:59:00")
    times = [
        None if row["image_id"].endswith("0000 (2)") else midnight + dt.timedelta(hours=at % 24)
        for at, row in enumerate(table.to_pylist())
    ]
    place = table.column_names.index("datetime")
    table = table.set_column(place, table.field("datetime"), pa.array(times, pa.timestamp("ms")))
    write_table(dataset.store, INDEX_FILE, table)
    return dataset


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    """Site, season and hour of each image; -1 where there is no time; sites of train beside."""
    dataset = dated(make_dataset(str(tmp_path)))
    rows = dataset.index("val").to_pylist()[::-1]
    made = read_captures(dataset, "val", tuple(row["image_id"] for row in rows))
    hours = [-1 if row["datetime"] is None else row["datetime"].hour for row in rows]
    assert made.hours_N.tolist() == hours
    assert -1 in hours
    assert len(set(hours)) > 5
    assert made.sites_N.tolist() == ["val-site"] * 9
    assert made.seasons_N.tolist() == ["S1"] * 9
    assert made.train_sites == {"train-site"}


def test_an_image_that_the_index_does_not_know_is_named(tmp_path: Path) -> None:
    """One of another split is not of this one."""
    dataset = make_dataset(str(tmp_path))
    known, other = (dataset.index(split)["image_id"][0].as_py() for split in ("val", "train"))
    with pytest.raises(DatasetError, match=r"image S1/train cam/PICT0000 \(2\) is in a shard"):
        read_captures(dataset, "val", (known, other))
