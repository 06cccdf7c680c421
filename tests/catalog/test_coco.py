"""LILA v2.1 and plain COCO become the catalog, with the quirks of the real files."""

import datetime as dt
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.errors import CatalogError
from tests.catalog_factory import Read, read_file


def lila() -> dict[str, Any]:
    """A LILA label file with two images of one sequence."""
    image = {"width": 2048, "height": 1536, "corrupt": False, "seq_num_frames": 2}
    annotation = {"sequence_level_annotation": True, "season": "S1", "count": float("nan")}
    return {
        "info": {"version": "2.1"},
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
            | {
                "id": "x",
                "image_id": "S1/D04/D04_R6/S1_D04_R6_PICT0001",
                "category_id": 5,
                "standing": 0.625,
                "resting": float("nan"),
                "subject_id": 7,
            }
        ],
    }


def read(folder: Path, value: object, name: str = "labels.json") -> Read:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / name).write_text(text)
    return read_file(folder, name)


def test_a_lila_image_becomes_one_row(tmp_path: Path) -> None:
    """Id, sequence, frame, site, season, time, size and labels are where the catalog has them."""
    found = read(tmp_path, lila())
    assert found.images[0] == {
        "image_id": "S1/D04/D04_R6/S1_D04_R6_PICT0001",
        "seq_id": "SER_S1#D04#6#7",
        "frame_num": 1,
        "file_name": "S1/D04/D04_R6/S1_D04_R6_PICT0001.JPG",
        "site": "D04",
        "season": "S1",
        "datetime": dt.datetime(2010, 8, 19, 18, 24, 57),  # noqa: DTZ001 - cameras know no zone
        "labels": ["zebra"],
        "given_split": None,
        "width": 2048,
        "height": 1536,
        "content_hash": None,
        "duplicate_of": None,
    }
    assert found.images[1]["labels"] == []


def test_counts_behaviours_and_ids_stay_beside_the_labels(tmp_path: Path) -> None:
    """An annotation keeps what it says; NaN is null, and a number for an id is text."""
    value = lila()
    value["annotations"].append(
        {"id": 3, "image_id": value["images"][1]["id"], "category_id": 0, "count": "11-50"}
    )
    value["annotations"].append(value["annotations"][0] | {"id": "y", "count": 2.0})
    first, second, third = read(tmp_path, value).annotations
    assert (first["annotation_id"], first["category"], first["is_of_sequence"]) == (
        "x",
        "zebra",
        True,
    )
    assert (first["count"], first["standing"], first["resting"]) == (None, 0.625, None)
    assert (first["subject_id"], second["count"]) == ("7", "2")
    assert (third["annotation_id"], third["count"], third["is_of_sequence"]) == (
        "3",
        "11-50",
        False,
    )


def test_boxes_keep_their_unit(tmp_path: Path) -> None:
    """A box of plain COCO stays in px beside its image."""
    value = lila()
    value["annotations"][0]["bbox"] = [1, 2, 30.5, 40]
    (row,) = read(tmp_path, value).annotations
    assert [row[f"bbox_{side}"] for side in ("x", "y", "width", "height")] == [1, 2, 30.5, 40]
    assert row["bbox_unit"] == "px"


def test_unknown_location_and_time_are_made_good_where_the_seq_id_tells(tmp_path: Path) -> None:
    """The site comes from the seq_id, the season too, and an unknown time is null."""
    value = lila()
    for image in value["images"]:
        image |= {"location": "unknown", "datetime": "unknown", "seq_id": "SER_S11#S10#1#10"}
        image |= {"width": -1, "height": -1}
    value["annotations"] = []
    rows = read(tmp_path, value).images
    assert [(row["site"], row["season"], row["datetime"]) for row in rows] == [
        ("S10", "S11", None),
        ("S10", "S11", None),
    ]
    assert [(row["width"], row["height"]) for row in rows] == [(None, None)] * 2


def test_a_zip_reads_like_its_json(tmp_path: Path) -> None:
    """``.json.zip`` gives the same catalog as the file inside it."""
    plain = read(tmp_path, lila())
    with zipfile.ZipFile(tmp_path / "labels.json.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "labels.json", "any name.json")
    assert read_file(tmp_path, "labels.json.zip") == plain


def test_plain_coco_with_numbers_for_ids(tmp_path: Path) -> None:
    """Images without sequences are their own; the key is the file name, without dots."""
    value = {
        "images": [{"id": 7, "file_name": "a/b.c.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        # Last, as COCO's own files have them.
        "categories": [{"id": 1, "name": "deer"}],
    }
    (row,) = read(tmp_path, value).images
    assert (row["image_id"], row["seq_id"], row["file_name"]) == ("a/b_c", "a/b_c", "a/b.c.jpg")
    assert row["labels"] == ["deer"]


def test_frames_counted_from_zero_are_counted_from_one(tmp_path: Path) -> None:
    """Where a file counts frames from 0, all are moved by one, and none is doubled."""
    value = lila()
    for image in value["images"]:
        image["frame_num"] -= 1
    assert [row["frame_num"] for row in read(tmp_path, value).images] == [1, 2]


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path: Path) -> None:
    """Images, annotations and top-level keys shuffled give the same catalog and annotations."""
    value = lila()
    value["images"] += [
        one | {"id": f"b{at}", "seq_id": "s"} for at, one in enumerate(value["images"])
    ]
    value["annotations"] += [
        {"image_id": one["id"], "category_id": category}
        for one in value["images"]
        for category in (0, 5)
    ]
    there = read(tmp_path, value)
    for seed in range(5):
        rng = random.Random(seed)  # noqa: S311
        shuffled = list(value.items())
        rng.shuffle(shuffled)
        for key in ("images", "annotations", "categories"):
            rng.shuffle(value[key])
        assert read(tmp_path, dict(shuffled)) == there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "has no images: it is not a COCO label file"),
        ({"categories": None}, "has no categories: it is not a COCO label file"),
        (
            {"annotations": [{"id": 3, "image_id": "S1", "category_id": 99}]},
            "labels.json: annotation 3 of image 'S1' is of category 99",
        ),
        ({"annotations": [{"image_id": "S1", "category_id": 99}]}, "99, which the file does not"),
        ({"annotations": [{"category_id": 5}]}, "an annotation lacks 'image_id'"),
        ({"images": [{"id": "a"}]}, "an image lacks 'file_name': {'id': 'a'}"),
        ({"images": {"a": 1}}, "an image is not a JSON object"),
        ({"images": [{"id": "a", "file_name": "a.jpg", "width": "wide"}]}, "another kind"),
        ({"categories": [{"id": 1}]}, "has no 'name'"),
        ({"images": []}, "lists no images"),
    ],
)
def test_contradictions_are_one_clear_error(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """A missing part, an unknown category and a value of the wrong kind are named."""
    value = {key: entry for key, entry in (lila() | change).items() if entry is not None}
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, value)
    assert message in str(caught.value)
    assert str(caught.value).count("labels.json") <= 1
    assert "\n" not in str(caught.value)


def test_damaged_files_are_one_clear_error(tmp_path: Path) -> None:
    """A file cut anywhere, a zip without JSON and a missing file name themselves."""
    whole = json.dumps(lila())
    for cut in range(1, len(whole), 37):
        with pytest.raises(CatalogError, match=r"cut\.json (ends in the middle|has no )"):
            read(tmp_path, whole[:cut], "cut.json")
    with pytest.raises(CatalogError, match="entry 2 of images is not valid JSON"):
        read(tmp_path, whole.replace('{"width"', '{width"', 2).replace("{width", '{"width', 1))
    with zipfile.ZipFile(tmp_path / "empty.json.zip", "w"):
        pass
    with pytest.raises(CatalogError, match="exactly one"):
        read_file(tmp_path, "empty.json.zip")
    (tmp_path / "bad.json.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CatalogError, match=r"bad\.json\.zip is a damaged zip"):
        read_file(tmp_path, "bad.json.zip")
    with zipfile.ZipFile(tmp_path / "flipped.json.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.json", " ".join(str(at * at) for at in range(3000)))
    content = bytearray((tmp_path / "flipped.json.zip").read_bytes())
    content[100:200] = bytes(100)
    (tmp_path / "flipped.json.zip").write_bytes(content)
    with pytest.raises(CatalogError, match=r"flipped\.json\.zip is a damaged zip"):
        read_file(tmp_path, "flipped.json.zip", labels_format="coco")
    with pytest.raises(CatalogError, match=r"no label file .*nowhere\.json"):
        read_file(tmp_path, "nowhere.json")
    with pytest.raises(CatalogError, match="does not hold a JSON object"):
        read(tmp_path, [])
    (tmp_path / "latin.json").write_bytes(whole.replace("zebra", "zèbre").encode("latin-1"))
    (tmp_path / "latin.json").write_bytes(b'{"categories": ["z\xe8bre"]}')
    with pytest.raises(CatalogError, match=r"latin\.json is not UTF-8"):
        read_file(tmp_path, "latin.json")


def test_a_repeated_id_is_refused(tmp_path: Path) -> None:
    """Two images with one id are named with their rows and file, not merged."""
    value = lila()
    value["images"].append(value["images"][0])
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, value)
    assert "'S1/D04/D04_R6/S1_D04_R6_PICT0001' (2 rows)" in str(caught.value)
    assert "labels.json" in caught.value.__notes__[0]


def test_ids_that_no_tar_can_hold_are_refused(tmp_path: Path) -> None:
    """Too long a name, an empty folder and a control character are named."""
    for name in ("x" * 95, f"{'x' * 156}/y", "a//b", "a\nb", "", f"{'x/' * 130}y"):
        value = lila()
        value["images"][0] |= {"id": name, "file_name": "a.jpg"}
        with pytest.raises(CatalogError, match="cannot name a file in a tar"):
            read(tmp_path, value)
    value["images"][0] |= {"id": f"{'x' * 155}/{'y' * 84}", "file_name": "a.jpg"}
    assert len(read(tmp_path, value).images) == 2


def test_the_real_lila_file(shared_data: Path) -> None:
    """The mini file of the real schema: 31 images, 20 sequences, two species on one."""
    found = read_file(shared_data / "serengeti", "SnapshotSerengeti_mini_v2_1.json")
    assert (found.overview.num_images, found.overview.num_sequences) == (31, 20)
    assert found.image("S5/U10/U10_R4/S5_U10_R4_IMAG3595")["labels"] == ["wildebeest", "zebra"]
    assert found.image("S1/D04/D04_R6/S1_D04_R6_PICT0275")["site"] == "D04"
    assert found.image("SER_S11/T11/T11_R1/SER_S11_T11_R1_IMAG0335")["season"] == "S11"
    assert {name: one.count for name, one in found.findings.items()} == {
        "no label": 1,
        "no date": 1,
        "withheld": 4,
    }
    subjects = {row["subject_id"] for row in found.annotations}
    assert "ASG0002kjh" in subjects
    assert all(row["eating"] is None for row in found.annotations)
    assert "11-50" in {row["count"] for row in found.annotations}


def test_the_real_plain_coco_file(shared_data: Path) -> None:
    """ENA24's file with integer ids and boxes reads, one sequence per image."""
    found = read_file(shared_data / "formats" / "ena24", "coco_annotations.json")
    assert found.overview.num_images == found.overview.num_sequences == 21
    assert all(row["labels"] for row in found.images)
    assert all(row["bbox_unit"] == "px" for row in found.annotations)
