"""Label rows joined: labels of sequences and frames, sequences made, and what is odd."""

import datetime as dt
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.checks import find_all
from serengeti_etl.catalog.database import Database
from serengeti_etl.catalog.join import join_rows, read_images
from serengeti_etl.catalog.rows import ANNOTATION_ROWS, IMAGE_ROWS, RowWriter
from serengeti_etl.label_config import CsvColumns
from tests.catalog_factory import read_file

Rows = list[dict[str, Any]]


def joined(images: Rows, annotations: Rows, gap_seconds: float = 5.0) -> tuple[Rows, Rows]:
    """Catalog and annotations of these rows."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, images, annotations)
        with Database(folder) as database:
            join_rows(database, folder, gap_seconds)
        table = pq.ParquetFile(folder / "annotations.parquet").read(use_threads=False)
        return read_images(folder).to_pylist(), table.to_pylist()


def write(folder: Path, images: Rows, annotations: Rows) -> None:
    with RowWriter(folder) as rows:
        for table, add, schema in (
            (images, rows.add_images, IMAGE_ROWS),
            (annotations, rows.add_annotations, ANNOTATION_ROWS),
        ):
            if table:
                columns = pa.Table.from_pylist(table, schema=schema)
                add({name: columns[name].combine_chunks() for name in schema.names})


def image(name: str, **fields: Any) -> dict[str, Any]:
    return {"key": name, "image_id": name, "file_name": f"{name}.jpg"} | fields


def said(category: str, **fields: Any) -> dict[str, Any]:
    return {"category": category, "is_of_sequence": "key" not in fields} | fields


def test_a_frame_s_own_labels_come_before_those_of_its_sequence() -> None:
    """What is said of a sequence goes to the frames of which nothing else is said."""
    images = [image(name, seq_id="s") for name in ("a", "b", "c")]
    rows, annotations = joined(
        images, [said("zebra", seq_id="s"), said("empty", key="b"), said("lion", seq_id="s")]
    )
    assert [row["labels"] for row in rows] == [["lion", "zebra"], ["empty"], ["lion", "zebra"]]
    told = {(row["image_id"], row["category"], row["is_of_sequence"]) for row in annotations}
    assert told == {
        ("a", "lion", True),
        ("a", "zebra", True),
        ("b", "empty", False),
        ("c", "lion", True),
        ("c", "zebra", True),
    }


def test_what_is_said_of_a_sequence_alone_is_kept_without_an_image() -> None:
    """Where all frames have labels of their own, the sequence's annotation names no image."""
    _, annotations = joined(
        [image("a", seq_id="s")], [said("zebra", seq_id="s", count="3"), said("empty", key="a")]
    )
    assert [(row["image_id"], row["seq_id"], row["count"]) for row in annotations] == [
        ("a", "s", None),
        (None, "s", "3"),
    ]


def test_labels_of_nothing_join_nothing() -> None:
    """An annotation of an unknown image or sequence is in no table."""
    rows, annotations = joined(
        [image("a", seq_id="s")], [said("zebra", seq_id="t"), said("lion", key="b")]
    )
    assert (rows[0]["labels"], annotations) == ([], [])


DAY = dt.datetime(2020, 1, 1)  # noqa: DTZ001 - cameras know no zone


@settings(max_examples=60, deadline=None)
@given(
    shots=st.lists(
        st.tuples(st.sampled_from(["A", "B", "", None]), st.integers(0, 120)),
        min_size=1,
        max_size=40,
    ),
    gap=st.integers(1, 20),
    seed=st.randoms(use_true_random=False),
)
def test_sequences_are_made_by_site_and_gap(
    shots: list[tuple[str | None, int]], gap: int, seed: Any
) -> None:
    """Neighbours within the gap share a sequence, others do not, in whatever order rows come."""
    images = [
        image(f"i{at:03}", site=site, datetime=str(DAY + dt.timedelta(seconds=second)))
        for at, (site, second) in enumerate(shots)
    ]
    rows, _ = joined(images, [], gap)
    seed.shuffle(images)
    assert joined(images, [], gap)[0] == rows
    by_sequence: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_sequence[row["seq_id"]].append(row)
    expected = expected_sequences(shots, gap)
    found = {frozenset(row["image_id"] for row in part) for part in by_sequence.values()}
    assert found == expected
    for part in by_sequence.values():
        assert [row["frame_num"] for row in part] == list(range(1, len(part) + 1))
        assert [row["datetime"] for row in part] == sorted(row["datetime"] for row in part)


def expected_sequences(shots: list[tuple[str | None, int]], gap: int) -> set[frozenset[str]]:
    """The same by plain Python: a walk along each site's time."""
    found: list[list[str]] = []
    last: dict[str, int] = {}
    current: dict[str, list[str]] = {}
    for second, at in sorted((second, at) for at, (_, second) in enumerate(shots)):
        site, name = shots[at][0], f"i{at:03}"
        if not site:
            found.append([name])
        elif site in current and second - last[site] <= gap:
            current[site].append(name)
        else:
            current[site] = [name]
            found.append(current[site])
        if site:
            last[site] = second
    return {frozenset(names) for names in found}


def test_the_real_times_of_a_survey_make_its_published_sequences(shared_data: Path) -> None:
    """Reconyx event numbers, and bursts of others within 5 s, come back from site and time."""
    names = {"file_name": "file", "site": "location"}
    given_rows = read_file(
        shared_data / "southwest", "labels.csv", columns=CsvColumns(**names, frame_num="frame")
    ).images
    made_rows = read_file(
        shared_data / "southwest",
        "labels.csv",
        columns=CsvColumns(**names, seq_id=None, frame_num=None),
    ).images

    def grouped(rows: Rows) -> set[frozenset[str]]:
        groups: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            groups[row["seq_id"]].add(row["image_id"])
        return {frozenset(names) for names in groups.values()}

    assert grouped(made_rows) == grouped(given_rows)
    assert "RX_HF2_6759#20201001T160556" in {row["seq_id"] for row in made_rows}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2010-08-19 18:24:57", "2010-08-19T18:24:57"),
        ("2010:08:19 18:24:57", "2010-08-19T18:24:57"),
        ("2010/08/19 18:24", "2010-08-19T18:24:00"),
        ("2020-05-30T04:57:37+02:00", "2020-05-30T04:57:37"),
        ("2020-05-30T04:57:37Z", "2020-05-30T04:57:37"),
        ("2020-05-30", "2020-05-30T00:00:00"),
        (" 2020-05-30 ", "2020-05-30T00:00:00"),
        ("2020-05-30T04:57:37.250", "2020-05-30T04:57:37.250000"),
        ("2020-02-30 04:57:37", None),
        ("2020-07-29TT05:29:41Z", None),
        ("5/5/19 17:21", None),
        ("unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_times_are_read_as_the_camera_s_clock_showed_them(
    text: str | None, expected: str | None
) -> None:
    """ISO, EXIF and slashes are read, zones are dropped, nonsense is null."""
    ((row,), _) = joined([image("a", datetime=text)], [])
    assert (row["datetime"].isoformat() if row["datetime"] else None) == expected


def test_every_kind_of_oddity_is_found_with_its_count() -> None:
    """Each finding has the number of what is odd and its first examples by name."""
    images = [
        image("a", seq_id="s", frame_num=1, site="A", file_name="same.jpg", content_hash="1"),
        image("b", seq_id="s", frame_num=1, site="B", file_name="same.jpg", content_hash="2"),
        image("c", seq_id="t", frame_num=1, site="A", content_hash="2", datetime="1970-01-01"),
        image("d", seq_id="t", frame_num=2, site="A", datetime="2999-01-01"),
        image("e", seq_id="t", frame_num=3, site="A", datetime="2020-13-01"),
        image("f", seq_id="u", frame_num=1, site="", datetime="2020-12-01"),
    ]
    annotations = [
        said("zebra", key="a"),
        said("empty", key="a"),
        said("human", key="c"),
        said("lion", key="nobody"),
        said("lion", key="d"),
    ]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(folder, images, annotations)
        with Database(folder) as database:
            join_rows(database, folder, 5)
            found = {one.name: one for one in find_all(database, ["human"])}
    assert {name: (one.count, one.examples) for name, one in found.items()} == {
        "same path": (1, ("b = a",)),
        "same content": (1, ("c = b",)),
        "no label": (3, ("b", "e", "f")),
        "label without image": (1, ("nobody: lion",)),
        "sequence at two sites": (1, ("s: A, B",)),
        "repeated frame": (1, ("b",)),
        "contradiction": (1, ("a: empty, zebra",)),
        "impossible date": (3, ("c: 1970-01-01", "d: 2999-01-01", "e: 2020-13-01")),
        "no date": (2, ("a", "b")),
        "no site": (1, ("f",)),
        "withheld": (1, ("c",)),
    }


def test_hostile_names_are_data() -> None:
    """Quotes, percent signs and SQL in names change nothing but the names."""
    name = "a'); DROP TABLE images; --\"%s"
    rows, annotations = joined([image(name, seq_id=name, site=name)], [said(name, key=name)])
    assert (rows[0]["image_id"], rows[0]["site"], rows[0]["labels"]) == (name, name, [name])
    assert annotations[0]["category"] == name
