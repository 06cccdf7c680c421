"""A Camtrap DP of predictions is written as they come, to the bytes of one written at once."""

import datetime as dt
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.writer import write_camtrap_dp
from serengeti_etl.catalog.table import ANNOTATION_SCHEMA, CATALOG_SCHEMA, image_keys
from serengeti_etl.errors import CatalogError, ImageError
from serengeti_etl.predict.camtrap_dp import camtrap_dp_output
from serengeti_etl.predict.rows import PredictedImage
from serengeti_etl.storage import Store
from tests.conftest import files_below

CLASSES = ("empty", "human", "NA", "zebra, plains")
SITES = ("", "K1", "K#2%", 'a "b"')
PLACE = CamtrapDpSettings(
    name="p", title="p", created="2026-01-01T00:00:00Z", latitude=-2.3, longitude=34.8
)
START = dt.datetime.fromisoformat("2015-01-01 12:00:00.250")
FAILED = ImageError("truncated", "it ends too soon")


def names_of(rows: Sequence[PredictedImage]) -> pa.Array:
    return pa.array([row.file_name for row in rows], pa.string())


def write_at_once(rows: Sequence[PredictedImage], store: Store) -> None:
    """Write the package from all rows together, as a catalog is exported."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    keys = iter(image_keys(names_of(rows)).to_pylist())
    for seq_id, frames in groupby(rows, lambda row: row.seq_id):
        for number, row in enumerate(frames, 1):
            key, p_C = next(keys), row.probabilities_C
            seen = [] if p_C is None else [at for at in range(len(CLASSES)) if p_C[at] >= 0.5]
            if p_C is not None and not seen:
                seen = [int(p_C.argmax())]
            of_image = {"image_id": key, "seq_id": seq_id}
            more = {"frame_num": number, "file_name": row.file_name, "site": row.site}
            labels = sorted(CLASSES[at] for at in seen)
            images.append(
                {**of_image, **more, "season": "", "datetime": row.time, "labels": labels}
            )
            for at in seen:
                assert p_C is not None
                said = {"category": CLASSES[at], "is_of_sequence": False, "probability": p_C[at]}
                annotations.append({"annotation_id": f"{key}#{CLASSES[at]}", **of_image, **said})
    table = pa.Table.from_pylist(images, CATALOG_SCHEMA)
    write_camtrap_dp(
        table, [pa.RecordBatch.from_pylist(annotations, ANNOTATION_SCHEMA)], store, PLACE
    )


def write_as_they_come(rows: Sequence[PredictedImage], sizes: Iterator[int], store: Store) -> None:
    """Append so many rows after the other."""
    with camtrap_dp_output(store, PLACE, CLASSES, names_of(rows)) as append:
        while rows:
            size = next(sizes)
            append(rows[:size])
            rows = rows[size:]


PROBABILITY = st.sampled_from([0.0, 1e-17, 0.25, 1 / 3, 0.5, 0.75, 1.0])
SECONDS = st.none() | st.integers(-3, 100_000).map(lambda n: n / 7)


@st.composite
def photographs(draw: st.DrawFn) -> list[PredictedImage]:
    """Sequences of a frame or more: at one site or two, with times or without, read or not."""
    rows: list[PredictedImage] = []
    first = draw(st.sampled_from(["", "observation-"]))
    for number in range(draw(st.integers(1, 6))):
        site = draw(st.sampled_from(SITES))
        for frame in range(draw(st.integers(1, 4))):
            seconds = draw(SECONDS)
            # A name that does not fit as an id counts where the photograph is one of those read.
            is_first = not rows
            is_read = draw(st.booleans()) or is_first
            p_C = np.array(draw(st.tuples(*[PROBABILITY] * len(CLASSES))))
            suffix = draw(st.sampled_from([".jpg", ".PNG", ""]))
            name = f"{first if is_first else ''}{number}/{frame}{suffix}"
            rows.append(
                PredictedImage(
                    file_name=name,
                    seq_id=f"s|{number}",
                    site=draw(st.sampled_from([site, site, SITES[-1]])),
                    time=None if seconds is None else START + dt.timedelta(seconds=seconds),
                    probabilities_C=p_C if is_read else None,
                    failure=None if is_read else FAILED,
                )
            )
    return rows


@settings(deadline=None)
@given(rows=photographs(), sizes=st.lists(st.integers(1, 5), min_size=24, max_size=24))
def test_the_bytes_are_those_of_a_package_written_at_once(
    rows: list[PredictedImage], sizes: list[int]
) -> None:
    """However the rows are cut into parts; without any time it is refused in the same words."""
    with TemporaryDirectory() as folder:
        once, streamed = Path(folder, "once"), Path(folder, "streamed")
        if all(row.time is None for row in rows):
            said = f"none of {len(rows)} images has a date and time"
            with pytest.raises(CatalogError, match=said):
                write_at_once(rows, Store(url=str(once)))
            with pytest.raises(CatalogError, match=said):
                write_as_they_come(rows, iter(sizes), Store(url=str(streamed)))
        else:
            write_at_once(rows, Store(url=str(once)))
            write_as_they_come(rows, iter(sizes), Store(url=str(streamed)))
        assert files_below(streamed) == files_below(once)


def many(first: int, number: int) -> list[PredictedImage]:
    """Photographs, half of which could not be read, in sequences of two."""
    return [
        PredictedImage(
            file_name=f"{at:09d}.jpg",
            seq_id=f"s{at // 2}",
            site="K1",
            time=START + dt.timedelta(seconds=at),
            probabilities_C=np.array([0.1, 0.2, 0.3, 0.9]) if at % 2 else None,
            failure=None if at % 2 else FAILED,
        )
        for at in range(first, first + number)
    ]


def test_rows_are_not_held(tmp_path: Path) -> None:
    """Memory stays what it is when ten times the photographs come; the files grow meanwhile."""
    names = pa.array([f"{at:09d}.jpg" for at in range(22_000)])
    with camtrap_dp_output(Store(url=str(tmp_path)), PLACE, CLASSES, names) as append:

        def held_after(first: int, last: int) -> int:
            for at in range(first, last, 500):
                append(many(at, 500))
            return int(pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0])

        tracemalloc.start()
        before = held_after(0, 2_000)
        after = held_after(2_000, 22_000)
        tracemalloc.stop()
        for name in ("media", "observations"):
            (partial,) = tmp_path.glob(f".{name}.csv.*.partial")
            assert partial.stat().st_size > 1_000_000
    # Held, they would be 6 MB.
    assert after - before < 300_000
    lines = (tmp_path / "observations.csv").read_bytes().count(b"\r\n")
    assert lines == 22_001


def test_names_that_make_one_id_twice_cost_no_photograph(tmp_path: Path) -> None:
    """A photograph kept in two formats: each has its medium and its observation."""
    rows = many(0, 4)
    twin = many(1, 1)[0]
    rows.append(
        PredictedImage(
            file_name="000000001.png",
            seq_id="twin",
            site=twin.site,
            time=twin.time,
            probabilities_C=twin.probabilities_C,
            failure=None,
        )
    )
    write_as_they_come(rows, iter([3, 3]), Store(url=str(tmp_path)))
    for name in ("media", "observations"):
        assert (tmp_path / f"{name}.csv").read_bytes().count(b"\r\n") == 6
    ids = [
        line.split(",")[0] for line in (tmp_path / "observations.csv").read_text().splitlines()[1:]
    ]
    assert len(set(ids)) == 5
