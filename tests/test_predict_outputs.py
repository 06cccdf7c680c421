"""What predictions are written as, read back by those who read such files."""

import csv
import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.config import ResizeSettings
from serengeti_etl.errors import CatalogError, ConfigError, ImageError
from serengeti_etl.predict import tables
from serengeti_etl.predict.camtrap_dp import camtrap_dp_output
from serengeti_etl.predict.megadetector import megadetector_output
from serengeti_etl.predict.rows import PredictedImage, image_schema, image_table
from serengeti_etl.predict.served import ModelConfig
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.predict.tables import TABLES
from serengeti_etl.storage import Store
from tests.catalog_factory import read_file

CLASSES = ("empty", "zebra", "lion")
CONFIG = ModelConfig(
    model="resnet18", classes=CLASSES, image_size=(48, 64), resize=ResizeSettings()
)


def image(name: str, *probabilities: float, seconds: int = 0) -> PredictedImage:
    """A photograph of one site; a failure if there are no probabilities."""
    failed = ImageError("truncated", "it ends too soon")
    return PredictedImage(
        file_name=name,
        seq_id="s1" if seconds < 60 else "s2",
        site="K1",
        time=dt.datetime.fromisoformat("2015-01-01 12:00:00") + dt.timedelta(seconds=seconds),
        probabilities_C=np.array(probabilities) if probabilities else None,
        failure=None if probabilities else failed,
    )


ROWS = [
    image('a, "b"/1.jpg', 0.25, 0.7, 0.2),
    image("ä/2.jpg", 0.9999, 1e-17, 1 / 3, seconds=2),
    image("3.jpg", seconds=3),
    image("4.jpg", 0.2, 0.9, 0.6, seconds=60),
]
NAMES = pa.array([row.file_name for row in ROWS])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_hold_every_probability_to_the_last_digit(tmp_path: Path, kind: str) -> None:
    """One row per photograph, part by part; a failure has its reason and no numbers."""
    with TABLES[kind](Store(url=str(tmp_path)), f"x.{kind}", image_schema(CLASSES)) as append:
        append(image_table(ROWS[:3], CLASSES))
        append(image_table(ROWS[3:], CLASSES))
        assert not (tmp_path / f"x.{kind}").exists()
    rows: list[dict[str, Any]]
    if kind == "csv":
        with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    else:
        rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [row["file"] for row in rows] == [row.file_name for row in ROWS]
    assert [row["category"] or None for row in rows] == ["zebra", "empty", None, "zebra"]
    assert rows[2]["failure"] == "truncated: it ends too soon"
    for row, expected in zip(rows, ROWS, strict=True):
        values = [row[name] for name in ("probability", *CLASSES)]
        if expected.probabilities_C is None:
            assert all(value in ("", None) for value in values)
        else:
            p = expected.probabilities_C.tolist()
            assert [float(value) for value in values] == [max(p), *p]


def test_parquet_has_few_large_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts are gathered, so that what is kept of groups does not grow with every part."""
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 10)
    with tables.parquet_output(Store(url=str(tmp_path)), "x", image_schema(CLASSES)) as append:
        for _ in range(6):
            append(image_table(ROWS, CLASSES))
    metadata = pq.read_metadata(tmp_path / "x")
    assert metadata.num_rows == 24
    assert metadata.num_row_groups == 2


def test_a_table_is_not_there_if_its_writing_fails(tmp_path: Path) -> None:
    """What was appended before the failure leaves no file under any name."""

    def write_half(kind: str) -> None:
        with TABLES[kind](Store(url=str(tmp_path)), "x", image_schema(CLASSES)) as append:
            append(image_table(ROWS, CLASSES))
            raise ConnectionResetError

    for kind in TABLES:
        with pytest.raises(ConnectionResetError):
            write_half(kind)
    assert list(tmp_path.iterdir()) == []


def test_megadetector_results_follow_its_format(tmp_path: Path) -> None:
    """Format 1.6: a box around all, [] when empty, a failure with null; ids that are declared."""
    store = Store(url=str(tmp_path))
    with megadetector_output(store, "results.json", CONFIG) as append:
        append(ROWS[:2])
        append(ROWS[2:])
    found = json.loads((tmp_path / "results.json").read_text())
    assert_megadetector(found)
    assert [one["file"] for one in found["images"]] == [row.file_name for row in ROWS]
    assert found["images"][0]["detections"] == [
        {
            "category": "1",
            "conf": 0.75,
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "classifications": [["1", 0.7], ["2", 0.2]],
        }
    ]
    assert found["images"][1]["detections"] == []
    assert found["images"][2] == {
        "file": "3.jpg",
        "failure": "truncated: it ends too soon",
        "detections": None,
    }
    assert found["classification_categories"] == {"1": "zebra", "2": "lion"}


def assert_megadetector(found: dict[str, Any]) -> None:
    """The rules of the published validator, ``megadetector.postprocessing``."""
    assert found.keys() >= {"info", "images", "detection_categories"}
    assert found["info"]["format_version"] == "1.6"
    known = found["classification_categories"]
    for categories in (known, found["detection_categories"]):
        assert all(int(key) >= 0 and name.strip() for key, name in categories.items())
    for one in found["images"]:
        if "failure" in one:
            assert isinstance(one["failure"], str)
            assert one["detections"] is None
            continue
        for detection in one["detections"]:
            assert detection["category"] in found["detection_categories"]
            assert isinstance(detection["conf"], float)
            assert len(detection["bbox"]) == 4
            assert all(key in known for key, _ in detection["classifications"])


def test_no_photographs_are_valid_results_too(tmp_path: Path) -> None:
    """Nothing appended gives an empty list, not a broken file."""
    with megadetector_output(Store(url=str(tmp_path)), "results.json", CONFIG):
        pass
    assert json.loads((tmp_path / "results.json").read_text())["images"] == []


def place(**settings: Any) -> CamtrapDpSettings:
    """What Camtrap DP demands beside."""
    return CamtrapDpSettings(
        name="predictions", title="predictions", created="2026-01-01T00:00:00Z", **settings
    )


def test_camtrap_dp_has_observations_by_machine(tmp_path: Path) -> None:
    """Categories above a half, or the likeliest, with their probability; read back as a catalog."""
    settings = place(latitude=-2.3, longitude=34.8)
    with camtrap_dp_output(Store(url=str(tmp_path)), settings, CLASSES, NAMES) as append:
        append(ROWS[:1])
        append(ROWS[1:])
    with (tmp_path / "observations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = [
        (row["mediaID"], row["observationType"], row["scientificName"], row["classificationMethod"])
        for row in rows
    ]
    assert said == [
        ('a, "b"/1', "animal", "zebra", "machine"),
        ("ä/2", "blank", "", "machine"),
        ("4", "animal", "zebra", "machine"),
        ("4", "animal", "lion", "machine"),
        ("3", "unclassified", "", ""),
    ]
    assert [row["classificationProbability"] for row in rows][:4] == ["0.7", "0.9999", "0.9", "0.6"]
    assert [row["observationTags"] for row in rows] == [""] * 5
    assert rows[0]["eventStart"] == "2015-01-01T12:00:00+03:00"
    found = read_file(tmp_path, "datapackage.json")
    labels = {row["file_name"]: row["labels"] for row in found.images}
    assert labels == {
        'a, "b"/1.jpg': ["zebra"],
        "ä/2.jpg": ["empty"],
        "3.jpg": [],
        "4.jpg": ["lion", "zebra"],
    }
    frames = {row["file_name"]: (row["seq_id"], row["frame_num"]) for row in found.images}
    assert frames["3.jpg"] == ("s1", 3)
    assert frames["4.jpg"] == ("s2", 1)


def test_camtrap_dp_refuses_photographs_without_any_time(tmp_path: Path) -> None:
    """Nothing is written, and another format is named."""
    timeless = PredictedImage(
        file_name="1.jpg",
        seq_id="1",
        site="",
        time=None,
        probabilities_C=np.array([0.1, 0.2, 0.3]),
        failure=None,
    )
    settings = place(latitude=-2.3, longitude=34.8)
    with (
        pytest.raises(CatalogError, match="none of 1 images has a date and time"),
        camtrap_dp_output(Store(url=str(tmp_path)), settings, CLASSES, NAMES) as append,
    ):
        append([timeless])
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_told_are_refused() -> None:
    """An unknown suffix without a format, and a table of sequences that is no table."""
    assert PredictSettings(output="x.json").format == "megadetector"
    assert PredictSettings(output="x.txt", kind="csv").format == "csv"
    with pytest.raises(ConfigError, match="or give a format"):
        PredictSettings(output="x.txt")
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        PredictSettings(output="x.csv", sequences="x.json")
    with pytest.raises(ConfigError, match="a category 'file'"):
        image_schema(("empty", "file"))
