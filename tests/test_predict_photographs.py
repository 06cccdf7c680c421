"""Which photographs are predicted, in which order, and which of them are one sequence."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serengeti_etl.errors import CatalogError, ConfigError
from serengeti_etl.lease import lease_file
from serengeti_etl.predict.exif_time import exif_time
from serengeti_etl.predict.photographs import Photographs, Source
from serengeti_etl.predict.sequences import Sequencer


def names(photographs: Photographs) -> list[str]:
    """File names in order, the same by both ways to them."""
    found = [one.file_name for one in photographs]
    assert [one.file_name for one in photographs.wanted] == found
    return found


def test_a_folder_gives_its_photographs_folder_by_folder(tmp_path: Path) -> None:
    """Whatever their case and depth; what is hidden or no photograph is counted, not taken."""
    kept = ["a/1.JPG", "a/3.jpeg", "a/b (2)/2.PNG", "z.tif"]
    left = ["a/._1.JPG", "a/notes.txt", ".trash/4.jpg", "a/@eaDir/1.JPG", "a/clip.mp4"]
    leases = [lease_file("p.csv"), f"a/{lease_file()}"]  # of what writes there just now
    for name in [*kept, *left, *leases]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = Source(url=str(tmp_path)).find()
    assert names(found) == ["z.tif", "a/1.JPG", "a/3.jpeg", "a/b (2)/2.PNG"]
    assert [one.site for one in found] == ["", "a", "a", "a/b (2)"]
    assert found.num_ignored == len(left)
    (one,) = names(Source(url=str(tmp_path / "a" / "1.JPG")).find())
    assert one == "1.JPG"


def test_a_list_gives_names_sequences_sites_and_times(tmp_path: Path) -> None:
    """A CSV by usual names of columns: frames of a sequence come side by side, in time."""
    (tmp_path / "list.csv").write_text(
        "Location,Timestamp,FilePath,sequence_id\n"
        "K1,2015-01-01 10:00:02,b.jpg,s2\n"
        "K1,2015-01-01T09:00:00,c.jpg,s1\n"
        "K1,2015-01-01 10:00:01,d.jpg,s2\n"
        "K2,,a.jpg,s1\n"
        "K3,nonsense,e.jpg,\n"
        "K3,2015-01-01,,\n"
    )
    found = list(Source(url=str(tmp_path / "list.csv"), folder="/elsewhere").find())
    assert [one.file_name for one in found] == ["c.jpg", "a.jpg", "d.jpg", "b.jpg", "e.jpg"]
    assert [one.seq_id for one in found] == ["s1", "s1", "s2", "s2", None]
    assert [one.site for one in found] == ["K1", "K2", "K1", "K1", "K3"]
    assert [one.time for one in found][2:] == [
        dt.datetime.fromisoformat("2015-01-01 10:00:01"),
        dt.datetime.fromisoformat("2015-01-01 10:00:02"),
        None,
    ]
    assert Source(url=str(tmp_path / "list.csv"), folder="/else").find().store.url == "/else"


def test_lists_may_be_text_or_parquet(tmp_path: Path) -> None:
    """A name per line, or the columns of catalog.parquet; names are beside the list."""
    (tmp_path / "list.txt").write_text("b.jpg\n\n a (1).jpg \n")
    found = Source(url=str(tmp_path / "list.txt")).find()
    assert names(found) == ["a (1).jpg", "b.jpg"]
    assert found.store.url == str(tmp_path)
    table = pa.table({"file_name": ["b.jpg", "a.jpg"], "seq_id": ["s1", "s2"], "labels": [1, 2]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert names(Source(url=str(tmp_path / "list.parquet")).find()) == ["b.jpg", "a.jpg"]


def test_what_gives_no_photographs_is_refused(tmp_path: Path) -> None:
    """An empty folder, a missing or strange list: one sentence that says what is wanted."""
    with pytest.raises(ConfigError, match=r"no photographs at .*: give a folder"):
        Source(url=str(tmp_path)).find()
    for name in ("list.txt", "list.csv", "list.parquet"):
        with pytest.raises(CatalogError, match="there is no l"):
            Source(url=str(tmp_path / name)).find()
    (tmp_path / "list.csv").write_text("photo,what\na.jpg,zebra\n")
    with pytest.raises(CatalogError, match=r"no column of file names, only .*'photo'"):
        Source(url=str(tmp_path / "list.csv")).find()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CatalogError, match="not UTF-8"):
        Source(url=str(tmp_path / "list.txt")).find()


def test_frames_within_the_gap_at_one_place_are_one_sequence() -> None:
    """A longer gap, another place, and a photograph without time begin a new one."""
    noon = dt.datetime.fromisoformat("2015-01-01 12:00:00")
    frames: list[tuple[str, str, float | None]]
    frames = [("a/1.jpg", "a", 0.0), ("a/2.jpg", "a", 5.0), ("a/3.jpg", "a", 10.5)]
    frames += [("b/4.jpg", "b", 11.0), ("b/5.jpg", "b", None), ("b/6.jpg", "b", 12.0)]
    sequencer = Sequencer(gap_seconds=5)
    found = [
        sequencer.seq_id(
            name, None, site, None if after is None else noon + dt.timedelta(seconds=after)
        )
        for name, site, after in frames
    ]
    assert found == ["a/1", "a/1", "a/3", "b/4", "b/5", "b/6"]
    assert sequencer.seq_id("x.jpg", "given", "b", noon) == "given"


def test_times_are_those_of_the_camera(shared_data: Path) -> None:
    """Of real photographs of four makes, Exif's original time; None where there is none."""
    import pandas as pd

    frames = pd.read_csv(shared_data / "southwest" / "labels.csv")
    found = 0
    for row in frames.itertuples():
        path = next((shared_data / "southwest").rglob(f"{row.file}*"), None)
        if path is None or not isinstance(row.datetime, str):
            continue
        assert exif_time(path.read_bytes()) == pd.Timestamp(row.datetime).to_pydatetime()
        found += 1
    assert found > 50
    assert exif_time(b"") is None
    assert exif_time(b"\xff\xd8Exif\0\0II*\0\xff\xff\xff\xff") is None
    assert exif_time(b"\xff\xd8Exif\0\0XX") is None


def test_the_time_of_exposure_is_taken_not_that_of_a_scan(tmp_path: Path) -> None:
    """Exif has several times; without the original one there is none."""
    from PIL import Image

    exif = Image.Exif()
    exif[0x0132] = "2020:01:01 00:00:00"
    details = exif.get_ifd(0x8769)
    details[0x9004] = "2019:01:01 00:00:00"
    picture = Image.new("RGB", (32, 32))
    picture.save(tmp_path / "scan.jpg", exif=exif)
    assert exif_time((tmp_path / "scan.jpg").read_bytes()) is None
    details[0x9003] = "2015:07:09 21:00:59"
    picture.save(tmp_path / "camera.jpg", exif=exif)
    found = exif_time((tmp_path / "camera.jpg").read_bytes())
    assert found == dt.datetime.fromisoformat("2015-07-09 21:00:59")
