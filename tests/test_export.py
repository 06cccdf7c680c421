"""Labels handed on: those of a dataset's shards, with its split, and those of a catalog."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cluster import open_runner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.export import exported_labels, write_labels
from serengeti_etl.label_catalog import make_label_catalog
from serengeti_etl.label_config import ColumnSplit
from tests.catalog_factory import read_file

PLACE: dict[str, Any] = {
    "utc_offset": "+03:00",
    "latitude": None,
    "longitude": None,
    "sites": None,
    "contributor": "Snapshot Serengeti",
    "sampling_design": "systematicRandom",
}


@pytest.fixture(scope="module")
def dataset(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn season, converted. Read only."""
    output = tmp_path_factory.mktemp("export") / "dataset"
    with open_runner("serial") as runner:
        convert_season(pipeline, runner, str(output))
    return output


def test_only_what_is_in_shards_is_handed_on_with_its_split(dataset: Path, tmp_path: Path) -> None:
    """Images, splits and annotations of the export are those of the index."""
    index = open_dataset(str(dataset)).index()
    splits = dict(zip(index["image_id"].to_pylist(), index["split"].to_pylist(), strict=True))
    write_labels(exported_labels(str(dataset)), "coco", str(tmp_path), {})
    found = read_file(tmp_path, "labels.json")
    assert {row["image_id"]: row["given_split"] for row in found.images} == splits
    assert {row["image_id"] for row in found.annotations} <= splits.keys()
    labels = dict(zip(index["image_id"].to_pylist(), index["labels"].to_pylist(), strict=True))
    assert {row["image_id"]: row["labels"] for row in found.images} == labels


def test_an_exported_dataset_splits_the_same_again(
    dataset: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """The split travels with the labels: ``ColumnSplit`` makes it again."""
    write_labels(exported_labels(str(dataset)), "coco", str(tmp_path), {})
    again = replace(pipeline, source=str(tmp_path), split=ColumnSplit())
    made = make_label_catalog(again, str(tmp_path / "catalog"))
    assert made.selection is not None
    images = made.selection.images
    index = open_dataset(str(dataset)).index()
    expected = dict(zip(index["image_id"].to_pylist(), index["split"].to_pylist(), strict=True))
    assert dict(zip(images["image_id"].to_pylist(), images["split"].to_pylist(), strict=True)) == (
        expected
    )


def test_one_split_of_it_and_what_is_not_there(dataset: Path, tmp_path: Path) -> None:
    """``split`` takes its images only; an unknown split and an empty folder are named."""
    found = exported_labels(str(dataset), "val")
    assert set(found.images["given_split"].to_pylist()) == {"val"}
    with pytest.raises(DatasetError, match="no images of split 'tset'"):
        exported_labels(str(dataset), "tset")
    with pytest.raises(DatasetError, match=r"no catalog\.parquet at"):
        exported_labels(str(tmp_path))


def test_the_real_labels_go_round_by_camtrap_dp(shared_data: Path, tmp_path: Path) -> None:
    """LILA's mini file, exported and read again, is the same but for what has no time."""
    labels, source = "SnapshotSerengeti_mini_v2_1.json", str(shared_data / "serengeti")
    season = SeasonPipeline(name="mini", source=source, labels=labels)
    make_label_catalog(season, str(tmp_path / "catalog"))
    place = PLACE | {"latitude": -2.33, "longitude": 34.83}
    exported = exported_labels(str(tmp_path / "catalog"))
    said = write_labels(exported, "camtrap_dp", str(tmp_path / "package"), place)
    assert "30 images; left out: 1 images without date and time" in said
    description = json.loads((tmp_path / "package" / "datapackage.json").read_text())
    assert description["project"]["samplingDesign"] == "systematicRandom"
    assert description["contributors"][0]["title"] == "Snapshot Serengeti"
    before, after = read_file(Path(source), labels), read_file(tmp_path, "package")
    dated = [row for row in before.images if row["datetime"]]
    assert after.images == dated
    ids = {row["image_id"] for row in dated}
    assert after.annotations == [row for row in before.annotations if row["image_id"] in ids]


def test_places_of_sites_come_from_a_csv(tmp_path: Path, season: Path) -> None:
    """Each site's coordinates are taken from the table, and a site that it lacks is named."""
    pipeline = SeasonPipeline(name="p", source=str(season), labels="labels.json")
    make_label_catalog(pipeline, str(tmp_path / "catalog"))
    exported = exported_labels(str(tmp_path / "catalog"))
    sites = sorted(set(exported.images["site"].to_pylist()))
    rows = [f"{site},{-2 - at / 10},34.5" for at, site in enumerate(sites)]
    (tmp_path / "sites.csv").write_text("\n".join(["site,latitude,longitude", *rows]) + "\n")
    place = PLACE | {"sites": str(tmp_path / "sites.csv")}
    write_labels(exported, "camtrap_dp", str(tmp_path / "package"), place)
    wrong = place | {"sampling_design": "random"}
    with pytest.raises(ConfigError, match="sampling_design is 'random'"):
        write_labels(exported, "camtrap_dp", str(tmp_path / "other"), wrong)
    assert f",{sites[1]},,-2.1,34.5," in (tmp_path / "package" / "deployments.csv").read_text()
    (tmp_path / "sites.csv").write_text("\n".join(["site,latitude,longitude", *rows[1:]]) + "\n")
    with pytest.raises(ConfigError, match=f"site '{sites[0]}' has no coordinates"):
        write_labels(exported, "camtrap_dp", str(tmp_path / "other"), place)
