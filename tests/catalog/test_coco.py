"""LILA v2.1 and plain COCO become the catalog, with the quirks of the real files."""

import datetime as dt
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.catalog.coco import read_coco
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store


def lila() -> dict[str, Any]:
    """A LILA label file with two images of one sequence and one of another."""
    image = {"width": 2048, "height": 1536, "corrupt": False, "seq_num_frames": 2}
    annotation = {"sequence_level_annotation": True, "season": "S1", "count": float("nan")}
    return {
        "categories": [{"id": 0, "name": "empty"}, {"id": 5, "name": "zebra"}],
        "images": [
            image
            | {
                "id": f"S1/D04/D04_R6/S1_D04_R6_PICT000{frame}",
                "file_name": f"S1/D04/D04_R6/S1_D04_R6_PICT000{frame}.JPG",
                "seq_id": "SER_S1#D04#6#7",
                "frame_num": frame,
                "location": "D04",
                "datetime": "2010-08-19 18:24:57",
            }
            for frame in (1, 2)
        ],
        "annotations": [
            annotation
            | {"id": "x", "image_id": "S1/D04/D04_R6/S1_D04_R6_PICT0001", "category_id": 5}
        ],
    }


def read(folder: Path, value: object, name: str = "labels.json") -> list[dict[str, Any]]:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text)
    rows: list[dict[str, Any]] = read_coco(Store(url=str(folder)), name).to_pylist()
    return rows


def test_a_lila_image_becomes_one_row(tmp_path: Path) -> None:
    """Id, sequence, frame, site, season, time and labels are where the catalog has them."""
    rows = read(tmp_path, lila())
    assert rows[0] == {
        "image_id": "S1/D04/D04_R6/S1_D04_R6_PICT0001",
        "seq_id": "SER_S1#D04#6#7",
        "frame_num": 1,
        "file_name": "S1/D04/D04_R6/S1_D04_R6_PICT0001.JPG",
        "site": "D04",
        "season": "S1",
        "datetime": dt.datetime(2010, 8, 19, 18, 24, 57),  # noqa: DTZ001 - cameras know no zone
        "labels": ["zebra"],
    }
    assert rows[1]["labels"] == []


def test_unknown_location_and_time_are_made_good_where_the_seq_id_tells(tmp_path: Path) -> None:
    """The site comes from the seq_id, the season too, and an unknown time is null."""
    value = lila()
    for image in value["images"]:
        image |= {"location": "unknown", "datetime": "unknown", "seq_id": "SER_S11#S10#1#10"}
    value["annotations"] = []
    rows = read(tmp_path, value)
    assert [(row["site"], row["season"], row["datetime"]) for row in rows] == [
        ("S10", "S11", None),
        ("S10", "S11", None),
    ]


def test_a_zip_reads_like_its_json(tmp_path: Path) -> None:
    """``.json.zip`` gives the same catalog as the file inside it."""
    plain = read(tmp_path, lila())
    with zipfile.ZipFile(tmp_path / "labels.json.zip", "w") as archive:
        archive.write(tmp_path / "labels.json", "any name.json")
    assert read_coco(Store(url=str(tmp_path)), "labels.json.zip").to_pylist() == plain


def test_plain_coco_with_numbers_for_ids(tmp_path: Path) -> None:
    """Images without sequences are their own; the key is the file name, without dots."""
    value = {
        "categories": [{"id": 1, "name": "deer"}],
        "images": [{"id": 7, "file_name": "a/b.c.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}],
    }
    (row,) = read(tmp_path, value)
    assert (row["image_id"], row["seq_id"], row["file_name"]) == ("a/b_c", "a/b_c", "a/b.c.jpg")
    assert row["labels"] == ["deer"]


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path: Path) -> None:
    """Images and annotations shuffled give the same catalog."""
    value = lila()
    there = read(tmp_path, value)
    value["images"].reverse()
    value["annotations"].reverse()
    assert read(tmp_path, value) == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "not a COCO label file"),
        ({"annotations": [{"image_id": "nobody", "category_id": 5}]}, "image 'nobody'"),
        ({"annotations": [{"image_id": "S1", "category_id": 99}]}, "category 99 is not listed"),
        ({"annotations": [{"category_id": 5}]}, "lacks 'image_id'"),
    ],
)
def test_contradictions_are_one_clear_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A missing part, an unknown image and an unknown category are named."""
    value = {key: entry for key, entry in (lila() | change).items() if entry is not None}
    with pytest.raises(CatalogError, match=message):
        read(tmp_path, value)


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    """A file cut in the middle, a zip without JSON and a missing file name themselves."""
    with pytest.raises(CatalogError, match=r"cut\.json is not valid JSON"):
        read(tmp_path, json.dumps(lila())[:100], "cut.json")
    with zipfile.ZipFile(tmp_path / "empty.json.zip", "w"):
        pass
    with pytest.raises(CatalogError, match="exactly one"):
        read_coco(Store(url=str(tmp_path)), "empty.json.zip")
    with pytest.raises(CatalogError, match=r"no label file .*nowhere\.json"):
        read_coco(Store(url=str(tmp_path)), "nowhere.json")
    with pytest.raises(CatalogError, match="holds a list"):
        read(tmp_path, [])


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    """Two images with one id are named, not merged."""
    value = lila()
    value["images"].append(value["images"][0])
    with pytest.raises(CatalogError, match="1 image ids occur more than once"):
        read(tmp_path, value)


def test_the_real_lila_file(shared_data: Path) -> None:
    """The mini file of the real schema: 31 images, 20 sequences, two species on one."""
    store = Store(url=str(shared_data / "serengeti"))
    table = read_coco(store, "SnapshotSerengeti_mini_v2_1.json")
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert len(rows) == 31
    assert len({row["seq_id"] for row in rows.values()}) == 20
    assert rows["S5/U10/U10_R4/S5_U10_R4_IMAG3595"]["labels"] == ["wildebeest", "zebra"]
    assert rows["S1/D04/D04_R6/S1_D04_R6_PICT0275"]["site"] == "D04"
    assert rows["SER_S11/T11/T11_R1/SER_S11_T11_R1_IMAG0335"]["season"] == "S11"


def test_the_real_plain_coco_file(shared_data: Path) -> None:
    """ENA24's file with integer ids and boxes reads, one sequence per image."""
    store = Store(url=str(shared_data / "formats" / "ena24"))
    table = read_coco(store, "coco_annotations.json")
    assert table.num_rows == len(set(table["seq_id"].to_pylist())) == 21
    assert all(table["labels"].to_pylist())
