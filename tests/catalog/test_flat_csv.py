"""One flat CSV becomes the catalog."""

from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.catalog.flat_csv import read_flat_csv
from serengeti_etl.config import CsvColumns
from serengeti_etl.errors import CatalogError
from serengeti_etl.storage import Store

FULL = "file_name,label,site,seq_id,frame_num,datetime\n"


def read(folder: Path, text: str, columns: CsvColumns | None = None) -> list[dict[str, Any]]:
    (folder / "labels.csv").write_text(text)
    table = read_flat_csv(Store(url=str(folder)), "labels.csv", columns or CsvColumns())
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_one_row_becomes_one_image(tmp_path: Path) -> None:
    """Every named column lands in its place; ``empty_label`` becomes ``empty``."""
    text = FULL + "a/x.jpg,Blank,A,s1,2,2016-02-17 01:25:17\n"
    (row,) = read(tmp_path, text, CsvColumns(empty_label="Blank"))
    assert (row["image_id"], row["frame_num"], row["labels"]) == ("a/x", 2, ["empty"])
    assert row["datetime"].isoformat() == "2016-02-17T01:25:17"


def test_several_labels_in_a_cell_or_in_rows(tmp_path: Path) -> None:
    """``zebra|wildebeest`` and two rows of one file both give two labels."""
    text = FULL + "x.jpg,zebra|wildebeest,A,s,1,\ny.jpg,zebra,A,t,1,\ny.jpg,lion,A,t,1,\n"
    rows = read(tmp_path, text)
    assert [row["labels"] for row in rows] == [["wildebeest", "zebra"], ["lion", "zebra"]]
    assert rows[0]["datetime"] is None


def test_columns_a_file_lacks_are_said_so(tmp_path: Path) -> None:
    """With None for sequence, frame and time, every image is its own sequence."""
    columns = CsvColumns(seq_id=None, frame_num=None, datetime=None)
    (row,) = read(tmp_path, "file_name,label,site\nx.jpg,,A\n", columns)
    assert (row["seq_id"], row["frame_num"], row["labels"]) == ("x", 1, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\nx.jpg,zebra\n", "no column 'site', only"),
        (FULL + "x.jpg,zebra,A,s,one,\n", "row 2: frame number 'one'"),
        (FULL + "x.jpg,zebra,A,s,1,\nx.jpg,zebra,B,s,1,\n", "two rows of 'x.jpg' differ in site"),
        ("", "not a readable CSV"),
        (FULL, "lists no images"),
        (FULL + "x.jpg,zebra,A,s,1,\ny.jpg,zebra,B,s,2,\n", "more than one site"),
        (FULL + f"{'x' * 250}.jpg,zebra,A,s,1,\n", "too long for a ustar name"),
    ],
)
def test_bad_files_are_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    """Each contradiction names the column, the row or the file."""
    with pytest.raises(CatalogError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_the_real_csv(shared_data: Path) -> None:
    """The survey's 60 rows read, bursts kept together and blanks called ``empty``."""
    columns = CsvColumns(file_name="file", site="location", frame_num="frame", empty_label="Empty")
    table = read_flat_csv(Store(url=str(shared_data / "southwest")), "labels.csv", columns)
    labels = [name for names in table["labels"].to_pylist() for name in names]
    assert table.num_rows == 60
    assert labels.count("empty") == 9
    assert len(set(table["site"].to_pylist())) == 17
