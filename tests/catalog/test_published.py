"""The Hakuna pair, the Dryad pair and class folders become the catalog."""

import shutil
from pathlib import Path

import pytest

from serengeti_etl.errors import CatalogError
from tests.catalog_factory import read_file

METADATA = (
    "seq_id,file_name,datetime\n"
    "SER_S1#D04#6#7,b.JPG,2010-08-19 18:24:57\n"
    "SER_S1#D04#6#7,a.JPG,2010-08-19 18:24:57\n"
    "SER_S10#S10#1#1,c.JPG,2015-01-01 00:00:00\n"
)
LABELS = "seq_id,elephant,empty,zebra\nSER_S1#D04#6#7,1,0,1\nSER_S10#S10#1#1,0,1,0\n"
CONSENSUS = (
    "CaptureEventID,NumImages,DateTime,SiteID,Species,Count,Standing,Resting,Moving,Eating,"
    "Interacting,Babies\n"
    "E1,2,2010-07-18 16:26:14,B04,zebra,11-50,0.5,0,0.25,0,0,1\n"
    "E1,2,2010-07-18 16:26:14,B04,topi,NA,0,0,0,0,0,0\n"
)
IMAGES = (
    "CaptureEventID,URL_Info\n"
    "E1,S1/B04/B04_R1/y.JPG\n"
    "E1,S1/B04/B04_R1/x.JPG\n"
    "E2,S1/C04/C_R1/z.JPG\n"
)


def write_hakuna(folder: Path, metadata: str = METADATA, labels: str = LABELS) -> Path:
    (folder / "train_metadata.csv").write_text(metadata)
    (folder / "train_labels.csv").write_text(labels)
    return folder


def write_dryad(folder: Path, consensus: str = CONSENSUS, images: str = IMAGES) -> Path:
    (folder / "consensus_data.csv").write_text(consensus)
    (folder / "all_images.csv").write_text(images)
    return folder


def test_the_hakuna_pair_gives_every_frame_its_sequence_s_labels(tmp_path: Path) -> None:
    """Site and season come from the seq_id, frames are ordered by time and name."""
    found = read_file(write_hakuna(tmp_path), "train_labels.csv")
    first, second, third = found.images
    assert [first["file_name"], second["file_name"]] == ["a.JPG", "b.JPG"]
    assert [first["frame_num"], second["frame_num"]] == [1, 2]
    assert first["labels"] == second["labels"] == ["elephant", "zebra"]
    assert (third["site"], third["season"], third["labels"]) == ("S10", "S10", ["empty"])
    assert all(row["is_of_sequence"] for row in found.annotations)
    assert len(found.annotations) == 5


@pytest.mark.parametrize(
    ("metadata", "labels", "message"),
    [
        (
            METADATA.replace("file_name", "file"),
            LABELS,
            "train_metadata.csv has no column 'file_na",
        ),
        (METADATA, LABELS.replace(",1,0,1", ",1,0,0.7"), "train_labels.csv: .*Row #2.*'0.7'"),
        (METADATA, LABELS.replace(",1,0,1", ",1,0,2"), "zebra of 'SER_S1#D04#6#7' is 2"),
        (METADATA, LABELS + "SER_S1#D04#6#7,0,1,0\n", "more than one row of 'SER_S1#D04#6#7'"),
        (METADATA, LABELS.replace("seq_id", "sequence"), "train_labels.csv has no column 'seq_id'"),
        (METADATA + "SER_S1#D04#6#8,a.JPG,\n", LABELS, r"'a' \(2 rows\)"),
    ],
)
def test_a_bad_hakuna_pair_is_one_clear_error(
    tmp_path: Path, metadata: str, labels: str, message: str
) -> None:
    """A missing column, a probability, a repeated sequence and a repeated file are named."""
    write_hakuna(tmp_path, metadata, labels)
    with pytest.raises(CatalogError, match=message):
        read_file(tmp_path, "train_metadata.csv", labels_format="hakuna")


def test_half_a_hakuna_pair_names_the_missing_half(tmp_path: Path) -> None:
    """One file without the other is an error that says which is not there."""
    (write_hakuna(tmp_path) / "train_labels.csv").unlink()
    with pytest.raises(CatalogError, match=r"no label file .*train_labels\.csv"):
        read_file(tmp_path, "train_metadata.csv")


def test_labels_of_unlisted_sequences_are_found_not_fatal(tmp_path: Path) -> None:
    """A label row without images is counted with an example."""
    labels = LABELS + "SER_S9#A01#1#1,0,0,1\n"
    finding = read_file(write_hakuna(tmp_path, labels=labels), "train_labels.csv").findings[
        "label without image"
    ]
    assert (finding.count, finding.examples) == (1, ("SER_S9#A01#1#1: zebra",))


def test_the_dryad_pair_keeps_counts_and_behaviours(tmp_path: Path) -> None:
    """An event of two species labels its frames with both; one without consensus has no label."""
    found = read_file(write_dryad(tmp_path), "all_images.csv")
    first, second, third = found.images
    assert (first["file_name"], first["frame_num"]) == ("S1/B04/B04_R1/x.JPG", 1)
    assert first["labels"] == second["labels"] == ["topi", "zebra"]
    assert (first["site"], first["season"], first["seq_id"]) == ("B04", "S1", "E1")
    assert (third["site"], third["season"], third["labels"]) == ("C04", "S1", [])
    topi, zebra = found.annotations[:2]
    assert (topi["count"], zebra["count"]) == (None, "11-50")
    assert (zebra["standing"], zebra["moving"], zebra["young_present"]) == (0.5, 0.25, 1.0)


def test_a_bad_dryad_pair_is_one_clear_error(tmp_path: Path) -> None:
    """Rows of one event that differ in time, and a missing column, are named."""
    write_dryad(tmp_path, CONSENSUS.replace("16:26:14,B04,topi", "16:26:15,B04,topi"))
    with pytest.raises(CatalogError, match="the rows of 'E1' differ in DateTime or SiteID"):
        read_file(tmp_path, "consensus_data.csv")
    write_dryad(tmp_path, images=IMAGES.replace("URL_Info", "url"))
    with pytest.raises(CatalogError, match=r"all_images\.csv has no column 'URL_Info'"):
        read_file(tmp_path, "consensus_data.csv")


def test_class_folders_label_what_lies_in_them(tmp_path: Path) -> None:
    """The folder is the category, one above may be the split, and other files are counted."""
    for file in ("train/zebra/a.JPG", "valid/empty/b.png", "lion/deep/er/c.jpg"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_bytes(b"")
    for file in ("lion/notes.txt", "lion/.hidden.jpg", "loose.jpg"):
        (tmp_path / file).write_bytes(b"")
    found = read_file(tmp_path.parent, tmp_path.name)
    said = {row["image_id"]: (row["labels"], row["given_split"]) for row in found.images}
    assert said == {
        "train/zebra/a": (["zebra"], "train"),
        "valid/empty/b": (["empty"], "val"),
        "lion/deep/er/c": (["lion"], None),
    }
    assert found.findings["other file"].count == 3


def test_folders_without_photographs_are_refused(tmp_path: Path) -> None:
    """A folder that holds none says what it should look like."""
    (tmp_path / "zebra").mkdir()
    with pytest.raises(CatalogError, match="no photographs in folders named by category"):
        read_file(tmp_path.parent, tmp_path.name)


def test_the_real_pairs(shared_data: Path, tmp_path: Path) -> None:
    """Both published pairs read as folders too, and agree with LILA's file on what they share."""
    lila = read_file(shared_data / "serengeti", "SnapshotSerengeti_mini_v2_1.json")
    hakuna = read_file(shared_data / "serengeti", "hakuna")
    dryad = read_file(shared_data / "serengeti", "dryad")
    assert (hakuna.overview.num_images, hakuna.overview.num_sequences) == (27, 17)
    assert (dryad.overview.num_images, dryad.overview.num_sequences) == (27, 17)
    for other in (hakuna, dryad):
        for row in other.images:
            there = lila.image(row["image_id"])
            assert (row["site"] or there["site"], row["season"]) == (there["site"], there["season"])
            assert row["frame_num"] == there["frame_num"]
    copy = shutil.copytree(shared_data / "serengeti" / "hakuna", tmp_path / "copy")
    metadata = (copy / "train_metadata.csv").read_text().splitlines()
    (copy / "train_metadata.csv").write_text("\n".join([metadata[0], *metadata[:0:-1]]) + "\n")
    assert read_file(tmp_path, "copy").table == hakuna.table


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("formats/ena24/md_annotations.json", "is a MegaDetector batch result"),
        ("formats/megadetector/batch_output_1.1.json", "is a MegaDetector batch result"),
        ("formats/speciesnet/output_ensemble.json", "is a SpeciesNet result"),
        ("formats/speciesnet/instances_with_errors.json", "SpeciesNet instances, without labels"),
        ("formats/hakuna/submission_362_sequences.csv", "give their folder"),
        ("formats/hakuna/first_place_train_sample.csv", "rows 2 and 5: they differ in seq_id"),
        ("formats/serengeti_paths/s8_paths.txt", "is of no known format"),
        ("formats/camtrap_dp/example/media.csv", "is a table of a Camtrap DP"),
        ("serengeti/SnapshotSerengeti_mini_v2_1_images.csv", "is one of LILA's CSV pair"),
        ("serengeti/serengeti_season_stats.csv", "which of them names the photograph"),
        ("serengeti/recommended_splits.json", "has no categories: it is not a COCO label file"),
        ("nowhere.csv", "there is no label file"),
        ("nowhere", "there is no label file"),
    ],
)
def test_what_is_no_label_file_says_what_it_is(shared_data: Path, name: str, message: str) -> None:
    """Predictions, lists and lone tables are told from label files in one line."""
    with pytest.raises(CatalogError) as caught:
        read_file(shared_data, name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
