"""Label files in a real bucket read as they do from a folder, and catalogs are written there."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

from serengeti_etl.config import SeasonPipeline
from serengeti_etl.export import exported_labels, write_labels
from serengeti_etl.label_catalog import make_label_catalog
from serengeti_etl.label_config import FractionSplit
from serengeti_etl.storage import Store
from tests.conftest import files_below


def fill(store: Store, season: Path) -> None:
    """Every format that the drawn season can be put into, at ``store``."""
    labels = (season / "labels.json").read_bytes()
    store.write("labels.json", labels)
    path = season.parent / "labels.json.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.json", labels)
    store.upload(path, "labels.json.zip")
    for image in json.loads(labels)["images"]:
        store.write(f"folders/{len(image['file_name']) % 2}/{image['file_name']}", b"")


def test_a_bucket_gives_the_bytes_of_a_folder(
    make_bucket: Callable[[str], str], season: Path, tmp_path: Path
) -> None:
    """JSON, zip and class folders in a bucket give the very files that a folder gives."""
    bucket = make_bucket("labels")
    local = tmp_path / "source"
    fill(Store(url=bucket), season)
    fill(Store(url=str(local)), season)
    for labels in ("labels.json", "labels.json.zip", "folders"):
        written = []
        for source, output in ((bucket, f"{bucket}/out"), (str(local), str(tmp_path / "out"))):
            split = FractionSplit(by="sequence")
            pipeline = SeasonPipeline(name="p", source=source, labels=labels, split=split)
            made = make_label_catalog(pipeline, f"{output}/{labels}")
            assert made.refusal is None
            store = Store(url=f"{output}/{labels}")
            names = ("annotations.parquet", "catalog.parquet", "splits.json")
            written.append({name: store.read(name) for name in names})
        assert written[0] == written[1]


def test_an_export_to_a_bucket_is_that_to_a_folder(
    make_bucket: Callable[[str], str], season: Path, tmp_path: Path
) -> None:
    """Labels exported to a bucket and to a folder are the same bytes, and leave nothing beside."""
    bucket = make_bucket("export")
    pipeline = SeasonPipeline(name="p", source=str(season), labels="labels.json")
    make_label_catalog(pipeline, str(tmp_path / "catalog"))
    labels = exported_labels(str(tmp_path / "catalog"))
    for output in (bucket, str(tmp_path / "out")):
        write_labels(labels, "coco", output, {})
    assert files_below(tmp_path / "out") == {"labels.json": Store(url=bucket).read("labels.json")}
