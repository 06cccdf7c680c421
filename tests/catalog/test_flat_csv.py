"""One flat CSV becomes the catalog."""

from pathlib import Path

import pytest

from serengeti_etl.errors import CatalogError
from serengeti_etl.label_config import CsvColumns
from tests.catalog_factory import Read, read_file

FULL = "file_name,label,site,seq_id,frame_num,datetime\n"


def read(folder: Path, text: str, columns: CsvColumns | None = None) -> Read:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return read_file(folder, "labels.csv", columns=columns)


def test_one_row_becomes_one_image(tmp_path: Path) -> None:
    """Every named column lands in its place; ``empty_label`` becomes ``empty``."""
    text = FULL + "a/x.jpg,Blank,A,s1,2,2016-02-17 01:25:17\n"
    (row,) = read(tmp_path, text, CsvColumns(empty_label="Blank")).images
    assert (row["image_id"], row["frame_num"], row["labels"]) == ("a/x", 2, ["empty"])
    assert row["datetime"].isoformat() == "2016-02-17T01:25:17"


def test_several_labels_in_a_cell_or_in_rows(tmp_path: Path) -> None:
    """``zebra|wildebeest`` and two rows of one file both give two labels."""
    text = FULL + "x.jpg,zebra|wildebeest,A,s,1,\ny.jpg,zebra,A,t,1,\ny.jpg,lion,A,t,1,\n"
    found = read(tmp_path, text)
    assert [row["labels"] for row in found.images] == [["wildebeest", "zebra"], ["lion", "zebra"]]
    assert found.images[0]["datetime"] is None
    assert len(found.annotations) == 4


def test_every_other_column_that_is_named(tmp_path: Path) -> None:
    """Own id, season, count, split, digest and a date of another form are taken."""
    columns = CsvColumns(
        file_name="url",
        image_id="id",
        season="year",
        count="n",
        given_split="part",
        content_hash="md5",
        datetime="when",
        datetime_format="%m/%d/%y %H:%M",
        seq_id=None,
        frame_num=None,
    )
    header = "url,id,label,site,year,n,part,md5,when\n"
    text = f"{header}gs://b/x.jpg,i1,zebra,A,S9,11-50,val,ff,5/7/19 17:21\n"
    found = read(tmp_path, text, columns)
    (row,) = found.images
    assert (row["image_id"], row["file_name"]) == ("i1", "gs://b/x.jpg")
    assert (row["season"], row["given_split"], row["content_hash"]) == ("S9", "val", "ff")
    assert row["datetime"].isoformat() == "2019-05-07T17:21:00"
    assert found.annotations[0]["count"] == "11-50"


def test_columns_a_file_lacks_are_said_so(tmp_path: Path) -> None:
    """With None for sequence, frame and time, every image is its own sequence."""
    columns = CsvColumns(seq_id=None, frame_num=None, datetime=None)
    (row,) = read(tmp_path, "file_name,label,site\nx.jpg,,A\n", columns).images
    assert (row["seq_id"], row["frame_num"], row["labels"]) == ("x", 1, [])


def test_a_row_per_sequence_with_a_column_per_frame(tmp_path: Path) -> None:
    """Several columns of photographs are the frames of the row; a blank one is no frame."""
    columns = CsvColumns(
        file_name=("one", "two"), site=None, seq_id="seq", frame_num=None, datetime=None
    )
    found = read(tmp_path, "seq,one,two,label\n7,a.jpg,b.jpg,zebra\n8,c.jpg,,lion\n", columns)
    places = [(row["image_id"], row["seq_id"], row["frame_num"]) for row in found.images]
    assert places == [("a", "7", 1), ("b", "7", 2), ("c", "8", 1)]
    assert [row["labels"] for row in found.images] == [["zebra"], ["zebra"], ["lion"]]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_usual_column_names_and_other_delimiters_are_recognised(tmp_path: Path, mark: str) -> None:
    """``filepath`` and ``Species`` need no setting, nor do semicolons, tabs and a BOM."""
    text = "\ufefffilepath,Species,location\n" + 'x.jpg,"zebra, plains",A\n'
    quoted = text.replace('"zebra, plains"', '"zebra; plains"' if mark == ";" else "zebra")
    found = read(tmp_path, quoted.replace(",", mark))
    (row,) = found.images
    assert (row["site"], row["file_name"]) == ("A", "x.jpg")
    assert row["labels"] == (["zebra; plains"] if mark == ";" else ["zebra"])
    guessed = ("file_name = filepath", "label = Species", "site = location")
    assert found.findings["guessed columns"].examples == guessed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\nx.jpg,zebra\n", "labels.csv has no column 'site', only"),
        (FULL + "x.jpg,zebra,A,s,one,\n", "labels.csv, row 2: frame number 'one'"),
        (FULL + "x.jpg,zebra,A,s,1.5,\n", "row 2: frame number '1.5'"),
        (
            FULL + "x.jpg,zebra,A,s,1,\nx.jpg,zebra,B,s,1,\n",
            "labels.csv, rows 2 and 3: they differ in site of 'x.jpg' ('A', 'B')",
        ),
        ("", "labels.csv is empty"),
        (FULL, "lists no images"),
        (FULL + "x.jpg,zebra,A\n", "Expected 6 columns, got 3"),
        (FULL + f"{'x' * 250}.jpg,zebra,A,s,1,\n", "cannot name a file in a tar"),
        (
            FULL + "x.jpg,zebra,A,s,1,\nx.png,zebra,A,s,2,\n",
            "'x' (2 rows), for 'x.jpg' and 'x.png'",
        ),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    """Each contradiction names the column, the row or the file."""
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, text, CsvColumns())
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_columns_and_wrong_text_are_one_clear_error(tmp_path: Path) -> None:
    """Columns that nobody can guess are listed, and a file that is not UTF-8 says so."""
    with pytest.raises(CatalogError, match=r"\['a', 'b'\], and which of them names the photograph"):
        read(tmp_path, "a,b\n1,2\n")
    (tmp_path / "labels.csv").write_bytes(FULL.encode() + b"x.jpg,z\xe8bre,A,s,1,\n")
    with pytest.raises(CatalogError, match=r"labels\.csv: .*invalid UTF"):
        read_file(tmp_path, "labels.csv")


def test_the_real_csv(shared_data: Path) -> None:
    """The survey's 60 rows read, bursts kept together and blanks called ``empty``."""
    columns = CsvColumns(file_name="file", site="location", frame_num="frame", empty_label="Empty")
    found = read_file(shared_data / "southwest", "labels.csv", columns=columns)
    labels = [name for row in found.images for name in row["labels"]]
    assert len(found.images) == 60
    assert labels.count("empty") == 9
    assert found.overview.num_sites == 17


ZOONIVERSE = CsvColumns(
    file_name="url",
    label="Crowd Determination",
    site="Site",
    season="Season",
    seq_id="Subject ID",
    frame_num="Frame",
    datetime=None,
    count="Total Animals Present",
    empty_label="No animals present",
)
WELLINGTON = CsvColumns(
    file_name=("image1", "image2", "image3"),
    label="has_animal",
    site=None,
    seq_id="sequence",
    frame_num=None,
    datetime=None,
    empty_label="0",
)
WILDLIFE_INSIGHTS = CsvColumns(
    file_name="location",
    label="common_name",
    site="deployment_id",
    seq_id=None,
    frame_num=None,
    datetime="timestamp",
    datetime_format="%m/%d/%y %H:%M",
    image_id="image_id",
    count="number_of_objects",
)


@pytest.mark.parametrize(
    ("name", "columns", "counts"),
    [
        ("zooniverse/blank-100.csv", ZOONIVERSE, (100, 100, 78, 1)),
        ("zooniverse/zebra-1000.csv", ZOONIVERSE, (1000, 996, 200, 1)),
        ("zooniverse/wildebeest-100.csv", ZOONIVERSE, (100, 100, 65, 1)),
        ("wellington/final_dataset_train-trial.csv", WELLINGTON, (900, 300, 0, 2)),
        ("wellington/final_dataset_val_demo.csv", WELLINGTON, (6, 2, 0, 2)),
        ("wellington/loc_final_dataset_val_balanced-shuffled.csv", WELLINGTON, (17904, 5968, 0, 2)),
        ("wildlife_insights/images.csv", WILDLIFE_INSIGHTS, (49, 16, 4, 10)),
        ("ena24/labels.csv", None, (21, 21, 0, 7)),
    ],
)
def test_the_tables_of_other_platforms(
    shared_data: Path, name: str, columns: CsvColumns | None, counts: tuple[int, ...]
) -> None:
    """Images, sequences, sites and categories of real exports read by naming their columns."""
    found = read_file(shared_data / "formats", name, columns=columns).overview
    seen = (found.num_images, found.num_sequences, found.num_sites, len(found.categories))
    assert seen == counts
