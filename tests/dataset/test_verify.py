"""Verify names every kind of damage, and nothing on a whole dataset."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import (
    INDEX_FILE,
    open_dataset,
    read_report,
    read_table,
    write_table,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store


@pytest.fixture(scope="module")
def whole(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole dataset. Read only."""
    output = tmp_path_factory.mktemp("whole")
    convert_season(pipeline, SerialRunner(), str(output))
    return output


def flip_a_byte(folder: Path) -> None:
    path = min((folder / "train").glob("*.tar"))
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


def cut_a_tar(folder: Path) -> None:
    path = min((folder / "val").glob("*.tar"))
    path.write_bytes(path.read_bytes()[:-5000])


def delete_a_tar(folder: Path) -> None:
    min((folder / "val").glob("*.tar")).unlink()


def swap_two_tars(folder: Path) -> None:
    one, two = sorted((folder / "train").glob("*.tar"))[:2]
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def delete_an_index_part(folder: Path) -> None:
    min((folder / "index").glob("*.parquet")).unlink()


def change_an_index_row(folder: Path) -> None:
    store = Store(url=str(folder))
    part = read_table(store, "index/train-000000.parquet")
    rows = part.to_pylist()
    rows[0]["site"] = "elsewhere"
    report = read_report(store, "train-000000")
    changed = pa.Table.from_pylist(rows, schema=part.schema.remove_metadata())
    write_table(store, "index/train-000000.parquet", changed, report=report)


def cut_the_compacted_index(folder: Path) -> None:
    store = Store(url=str(folder))
    write_table(store, INDEX_FILE, read_table(store, INDEX_FILE).slice(1))


def damage_the_compacted_index(folder: Path) -> None:
    (folder / INDEX_FILE).write_bytes(b"PAR1 but not really")


def delete_rejects(folder: Path) -> None:
    next(path for path in (folder / "rejects").glob("*-*.parquet")).unlink()


def change_the_ledger(folder: Path) -> None:
    value = json.loads((folder / "dataset.json").read_text())
    value["ledger"]["num_in_shards"] += 1
    (folder / "dataset.json").write_text(json.dumps(value))


def lose_an_excluded_row(folder: Path) -> None:
    store = Store(url=str(folder))
    write_table(store, "rejects/plan.parquet", read_table(store, "rejects/plan.parquet").slice(1))


def add_a_stray_shard(folder: Path) -> None:
    shutil.copy(folder / "train" / "train-000000.tar", folder / "train" / "train-999999.tar")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "train/train-000000.tar:"),
        (cut_a_tar, "val/val-000000.tar:"),
        (delete_a_tar, "val/val-000000.tar is missing"),
        (swap_two_tars, "train/train-000001.tar:"),
        (delete_an_index_part, "index/train-000000.parquet is missing"),
        (change_an_index_row, "its json disagrees with the index"),
        (cut_the_compacted_index, "index.parquet disagrees with index/train-000000.parquet"),
        (damage_the_compacted_index, "cannot be read"),
        (delete_rejects, "rejects/"),
        (change_the_ledger, "the ledger of dataset.json is not that of the files"),
        (lose_an_excluded_row, "of the catalog is in no state"),
        (add_a_stray_shard, "train/train-999999.tar belongs to no shard"),
    ],
)
def test_damage_is_named(
    whole: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    """Each kind of damage gives a line that names what is wrong."""
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    damage(folder)
    problems = verify_dataset(str(folder), SerialRunner()).problems
    assert any(message in problem for problem in problems), problems


def test_a_whole_dataset_has_no_problems(whole: Path) -> None:
    """Nothing is reported, and the counts are those of dataset.json."""
    found = verify_dataset(str(whole), SerialRunner())
    assert found.problems == ()
    assert found.num_samples == open_dataset(str(whole)).index().num_rows


def test_what_is_no_dataset_says_what_to_do(tmp_path: Path) -> None:
    """An empty folder, a damaged dataset.json and another format are DatasetErrors."""
    with pytest.raises(DatasetError, match="run `serengeti-etl convert` again"):
        open_dataset(str(tmp_path))
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="is damaged"):
        open_dataset(str(tmp_path))
    (tmp_path / "dataset.json").write_text('{"format": "other/1"}')
    with pytest.raises(DatasetError, match="is not of format serengeti-etl/1"):
        open_dataset(str(tmp_path))
    (tmp_path / "dataset.json").write_text('{"format": "serengeti-etl/1", "shards": [{}]}')
    with pytest.raises(DatasetError, match="is damaged"):
        open_dataset(str(tmp_path))


def test_the_dataset_answers_for_its_splits(whole: Path) -> None:
    """Counts, rows and conditions agree with each other; an unknown split is named."""
    import pyarrow.compute as pc

    dataset = open_dataset(str(whole))
    assert dataset.splits == ("train", "val")
    for split in dataset.splits:
        assert dataset.num_images(split) == dataset.index(split).num_rows
    site = dataset.index("train")["site"][0].as_py()
    rows = dataset.index("train", columns=["site"], where=pc.field("site") == site)
    assert set(rows["site"].to_pylist()) == {site}
    assert rows.column_names == ["site"]
    with pytest.raises(DatasetError, match="no split 'test'"):
        dataset.shards("test")


def test_a_ledger_that_does_not_balance_is_an_error() -> None:
    """One image too few or too many stops the dataset from being called whole."""
    Ledger(num_images=3, num_in_shards=2, rejected={"missing": 1}).check()
    with pytest.raises(DatasetError, match="4 images in the catalog, 3 accounted for"):
        Ledger(num_images=4, num_in_shards=2, rejected={"missing": 1}).check()
    with pytest.raises(DatasetError, match="does not balance"):
        Ledger(num_images=2, num_in_shards=2, excluded={"limit": 1}).check()
