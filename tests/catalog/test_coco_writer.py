"""What is written as COCO Camera Traps reads back to the same tables."""

import datetime as dt
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.coco_writer import write_coco
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA
from serengeti_etl.storage import Store
from tests.catalog_factory import make_catalog, read_file

NAMES = st.text(
    st.characters(categories=["L", "N"], include_characters="_- "), min_size=1, max_size=8
)
WORDS = NAMES.map(lambda text: f"x{text}")  # so that none says "unknown" in some language of tools
MOMENTS = st.datetimes(dt.datetime(1990, 1, 1), dt.datetime(2030, 1, 1)).map(  # noqa: DTZ001
    lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
)
IMAGES = st.fixed_dictionaries(
    {
        "site": st.just("") | WORDS,
        "season": st.just("") | WORDS,
        "datetime": st.none() | MOMENTS,
        "given_split": st.none() | st.sampled_from(["train", "val"]),
        "width": st.none() | st.integers(1, 9999),
        "content_hash": st.none() | WORDS,
        "length": st.integers(1, 3),
        "said": st.lists(
            st.fixed_dictionaries(
                {
                    "category": st.sampled_from(["empty", "zebra", "löwe"]),
                    "is_of_sequence": st.booleans(),
                    "count": st.none() | st.sampled_from(["1", "11-50", "51+"]),
                    "standing": st.none() | st.floats(0, 1),
                    "behavior": st.none() | WORDS,
                    "probability": st.none() | st.floats(0, 1),
                    "box": st.none() | st.tuples(*[st.floats(0, 1)] * 4),
                }
            ),
            max_size=2,
        ),
    }
)


def tables_of(sequences: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    """Catalog and annotations of drawn sequences."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for at, one in enumerate(sequences):
        same = {key: value for key, value in one.items() if key not in ("length", "said")}
        for frame in range(one["length"]):
            name = f"s{at}/{frame}"
            labels = sorted({said["category"] for said in one["said"]})
            images.append(
                same
                | {
                    "image_id": name,
                    "seq_id": f"s{at}",
                    "frame_num": frame + 1,
                    "file_name": f"{name}.JPG",
                    "height": one["width"],
                    # Of its own: the same hash on two frames would make one a duplicate.
                    "content_hash": one["content_hash"] and f"{one['content_hash']} {name}",
                    "labels": labels,
                }
            )
            annotations += [
                annotation(said, name, number) for number, said in enumerate(one["said"])
            ]
    columns = {key: [row[key] for row in images] for key in images[0]}
    return make_catalog(columns), pa.Table.from_pylist(annotations, schema=ANNOTATION_SCHEMA)


def annotation(said: dict[str, Any], name: str, number: int) -> dict[str, Any]:
    row = {key: value for key, value in said.items() if key != "box"}
    row |= {"image_id": name, "seq_id": name.partition("/")[0], "annotation_id": f"{name}#{number}"}
    if said["box"] is not None:
        sides = ("bbox_x", "bbox_y", "bbox_width", "bbox_height")
        row |= dict(zip(sides, said["box"], strict=True)) | {"bbox_unit": "px"}
    return row


def by_id(table: pa.Table | list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = table if isinstance(table, list) else table.to_pylist()
    return sorted(rows, key=lambda row: str(row["annotation_id"]))


@settings(max_examples=25, deadline=None)
@given(sequences=st.lists(IMAGES, min_size=1, max_size=6))
def test_what_is_written_reads_back_to_the_same_tables(sequences: list[dict[str, Any]]) -> None:
    """Every column of the catalog and of the annotations comes back."""
    images, annotations = tables_of(sequences)
    with TemporaryDirectory() as folder:
        left_out = write_coco(images, annotations.to_batches(), Store(url=folder), "labels.json")
        found = read_file(Path(folder), "labels.json")
    assert left_out == 0
    assert found.table == images
    assert by_id(found.annotations) == by_id(annotations)


def test_the_file_is_plain_coco(tmp_path: Path) -> None:
    """Ids of categories are numbers, ``empty`` is 0, unknown sides are −1, and ids are unique."""
    images, annotations = tables_of(
        [
            {
                "site": "",
                "season": "S1",
                "datetime": None,
                "given_split": None,
                "width": None,
                "content_hash": None,
                "length": 2,
                "said": [{"category": "zebra", "is_of_sequence": True, "box": None}],
            }
        ]
    )
    write_coco(images, annotations.to_batches(), Store(url=str(tmp_path)), "labels.json")
    value = json.loads((tmp_path / "labels.json").read_text())
    assert value["categories"] == [{"id": 0, "name": "empty"}, {"id": 1, "name": "zebra"}]
    assert value["images"][0]["width"] == -1
    assert value["images"][0]["location"] == value["images"][0]["datetime"] == "unknown"
    assert value["images"][0]["seq_num_frames"] == 2
    assert value["annotations"][0]["category_id"] == 1
    assert len({one["id"] for one in value["annotations"]}) == 2


def test_shares_become_px_where_the_size_is_known_and_sequences_are_left_out(
    tmp_path: Path,
) -> None:
    """A box in shares is written in px; what is said of a sequence alone is counted."""
    images = make_catalog(
        {
            "image_id": ["a", "b"],
            "seq_id": ["s", "s"],
            "frame_num": [1, 2],
            "file_name": ["a.jpg", "b.jpg"],
            "site": ["", ""],
            "season": ["", ""],
            "labels": [["zebra"], ["zebra"]],
            "width": [200, None],
            "height": [100, None],
        }
    )
    box = {
        "bbox_x": 0.5,
        "bbox_y": 0.5,
        "bbox_width": 0.25,
        "bbox_height": 0.1,
        "bbox_unit": "share",
    }
    rows = [
        {"image_id": name, "seq_id": "s", "category": "zebra", "is_of_sequence": False} | box
        for name in ("a", "b")
    ]
    rows.append({"image_id": None, "seq_id": "s", "category": "zebra", "is_of_sequence": True})
    annotations = pa.Table.from_pylist(rows, schema=ANNOTATION_SCHEMA)
    left_out = write_coco(images, annotations.to_batches(), Store(url=str(tmp_path)), "labels.json")
    assert left_out == 1
    first, second = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    assert first["bbox"] == [100.0, 50.0, 50.0, 10.0]
    assert second["bbox_share"] == [0.5, 0.5, 0.25, 0.1]
    told = read_file(tmp_path, "labels.json").annotations
    assert [row["bbox_unit"] for row in told] == ["px", "share"]


def test_the_real_lila_file_comes_back(shared_data: Path, tmp_path: Path) -> None:
    """Read, written and read again, the real file gives the same catalog and annotations."""
    found = read_file(shared_data / "serengeti", "SnapshotSerengeti_mini_v2_1.json")
    annotations = pa.Table.from_pylist(found.annotations, schema=ANNOTATION_SCHEMA)
    write_coco(found.table, annotations.to_batches(), Store(url=str(tmp_path)), "labels.json")
    again = read_file(tmp_path, "labels.json")
    assert again.table == found.table
    assert again.annotations == found.annotations
