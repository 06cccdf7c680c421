"""Verify names every kind of damage, and nothing on a whole dataset."""

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serengeti_etl.cluster import SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec, SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import (
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetIndex,
    ShardInfo,
    compact_index,
    open_dataset,
    read_report,
    read_table,
    write_table,
)
from serengeti_etl.dataset.ledger import Ledger
from serengeti_etl.dataset.sums import (
    PLAN_FILES,
    SUMS_FILE,
    file_names,
    read_sums,
    seal,
    sha256_of,
    sums_content,
)
from serengeti_etl.dataset.tar_reader import TarReader
from serengeti_etl.dataset.verify import Verification, verify_dataset
from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.storage import Store
from tests.dataset_factory import jpeg_of, make_dataset

Damage = Callable[[Path], None]


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


def change_the_plan_s_settings(folder: Path) -> None:
    value = json.loads((folder / "plan" / "plan.json").read_text())
    value["settings"]["shards"]["seed"] = 8
    (folder / "plan" / "plan.json").write_text(json.dumps(value))


def cut_the_plan(folder: Path) -> None:
    store = Store(url=str(folder))
    write_table(store, "plan/plan.parquet", read_table(store, "plan/plan.parquet").slice(1))


def exchange_two_shards_rows(folder: Path) -> None:
    store = Store(url=str(folder))
    shards = open_dataset(str(folder)).info.shards
    compact_index(store, (shards[1], shards[0], *shards[2:]))


def change_a_row_of_the_compacted_index(folder: Path) -> None:
    """Of its second shard, a column that stands nowhere but in the index."""
    store = Store(url=str(folder))
    with pq.ParquetWriter(sink := pa.BufferOutputStream(), INDEX_SCHEMA) as writer:
        for shard in open_dataset(str(folder)).info.shards:
            rows = read_table(store, f"index/{shard.name}.parquet").to_pylist()
            rows[0]["source_width"] += shard.name == "train-000001"
            writer.write_table(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA))
    store.write(INDEX_FILE, sink.getvalue().to_pybytes())


def change_the_sum_of_a_tar(folder: Path) -> None:
    store = Store(url=str(folder))
    sums = read_sums(store) or {}
    store.write(SUMS_FILE, sums_content(sums | {"train/train-000000.tar": "0" * 64}))


def leave_rejects_behind(folder: Path) -> None:
    rejects = folder / "rejects"
    bare = next(s.name for s in open_dataset(str(folder)).info.shards if not s.num_rejected)
    shutil.copy(rejects / "plan.parquet", rejects / f"{bare}.parquet")


def exchange_two_samples(folder: Path) -> None:
    """Two photographs of a shard change places in the tar; its checksum everywhere is the new."""
    rewrite_tar(folder, lambda members: members[2:4] + members[:2] + members[4:])


def drop_a_sample(folder: Path) -> None:
    rewrite_tar(folder, lambda members: members[:-2])


def add_a_member(folder: Path) -> None:
    rewrite_tar(folder, lambda members: [*members, ("readme.txt", b"hello")])


Members = list[tuple[str, bytes]]


def rewrite_tar(folder: Path, change: Callable[[Members], Members]) -> None:
    """Other members in the first tar; report and dataset.json have its new checksum."""
    store, index = Store(url=str(folder)), open_dataset(str(folder)).info
    shard = index.shards[0]
    with tarfile.open(folder / shard.tar_name) as tar:
        members = [(one.name, (tar.extractfile(one) or io.BytesIO()).read()) for one in tar]
    with tarfile.open(folder / shard.tar_name, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in change(members):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = (folder / shard.tar_name).read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    changed = replace(shard, num_bytes=len(content), sha256=sha256)
    part = read_table(store, f"index/{shard.name}.parquet").replace_schema_metadata(None)
    write_table(store, f"index/{shard.name}.parquet", part, report=changed)
    seal(store, replace(index, shards=(changed, *index.shards[1:])), {shard.name})


def summed(damage: Damage) -> Damage:
    """The damage, after which the checksums are made anew, so that they do not tell it."""

    def damage_and_sum(folder: Path) -> None:
        damage(folder)
        store = Store(url=str(folder))
        digests = {name: sha256_of(store, name) for name in read_sums(store) or {}}
        sums = {name: digest for name, digest in digests.items() if digest is not None}
        store.write(SUMS_FILE, sums_content(sums))

    damage_and_sum.__name__ = f"{damage.__name__}_summed"
    return damage_and_sum


def add_a_stray_shard(folder: Path) -> None:
    shutil.copy(folder / "train" / "train-000000.tar", folder / "train" / "train-999999.tar")


def damaged_copy(whole: Path, folder: Path, damage: Damage) -> str:
    shutil.copytree(whole, folder)
    damage(folder)
    return str(folder)


def verified(url: str, share: float = 1.0) -> Verification:
    return verify_dataset(url, SerialRunner(), share=share)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "train/train-000000.tar:"),
        (cut_a_tar, "val/val-000000.tar:"),
        (delete_a_tar, "val/val-000000.tar is missing"),
        (swap_two_tars, "train/train-000001.tar:"),
        (delete_an_index_part, "index/train-000000.parquet is missing"),
        (change_an_index_row, "bytes that are not those of SHA256SUMS"),
        (summed(change_an_index_row), "its json disagrees with the index"),
        (cut_the_compacted_index, "index.parquet is not the bytes that SHA256SUMS has"),
        (summed(cut_the_compacted_index), "index.parquet has "),
        (summed(exchange_two_shards_rows), "index.parquet disagrees with index/train-000000"),
        (summed(change_a_row_of_the_compacted_index), "disagrees with index/train-000001"),
        (summed(damage_the_compacted_index), "index.parquet cannot be read"),
        (delete_rejects, "rejects/"),
        (change_the_ledger, "dataset.json is not the bytes that SHA256SUMS has"),
        (summed(change_the_ledger), "the ledger of dataset.json is not that of the files"),
        (summed(lose_an_excluded_row), "of the catalog is in no state"),
        (summed(change_the_plan_s_settings), "disagree on the settings"),
        (summed(cut_the_plan), "plan/plan.parquet and dataset.json disagree on the images"),
        (change_the_sum_of_a_tar, "disagree on the sha256 of train/train-000000.tar"),
        (leave_rejects_behind, "belongs to no shard"),
        (exchange_two_samples, "stands where the index has"),
        (drop_a_sample, "its end stands where the index has"),
        (add_a_member, "more members than those of its"),
        (add_a_stray_shard, "train/train-999999.tar belongs to no shard"),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
def test_damage_is_named(whole: Path, tmp_path: Path, damage: Damage, message: str) -> None:
    """Each kind of damage gives a line that names what is wrong."""
    problems = verified(damaged_copy(whole, tmp_path / "damaged", damage)).problems
    assert any(message in problem.message for problem in problems), problems


@pytest.mark.parametrize(
    ("damage", "shard", "name"),
    [
        (flip_a_byte, "train-000000", "train/train-000000.tar"),
        (delete_a_tar, "val-000000", "val/val-000000.tar"),
        (delete_an_index_part, "train-000000", "index/train-000000.parquet"),
        (cut_the_plan, None, "plan/plan.parquet"),
        (add_a_stray_shard, None, "train/train-999999.tar"),
    ],
)
def test_a_problem_says_which_shard_and_file(
    whole: Path, tmp_path: Path, damage: Damage, shard: str | None, name: str
) -> None:
    """Of a damaged shard, that shard and the file; of any other file, no shard."""
    (problem,) = verified(damaged_copy(whole, tmp_path / "damaged", damage)).problems
    assert (problem.shard, problem.name) == (shard, name)


@pytest.mark.parametrize("content", [None, b"", b"{", b"PAR1"])
@pytest.mark.parametrize("lost", ["", SUMS_FILE])
@pytest.mark.parametrize("name", PLAN_FILES)
def test_a_file_of_the_plan_that_is_not_there_or_not_readable_is_named(
    whole: Path, tmp_path: Path, name: str, content: bytes | None, lost: str
) -> None:
    """With checksums or without: that file and, where they are missing, they."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
        if lost:
            (folder / lost).unlink()

    problems = verified(damaged_copy(whole, tmp_path / "damaged", damage)).problems
    assert {problem.name for problem in problems} == {name, lost or name}, problems


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:0],
        lambda content: content[:-1],
        lambda content: content[:-1] + b"\r",
        lambda content: content.replace(b"  ", b" ", 1),
        lambda content: content + content[:80],
        lambda content: b"\xff" + content[1:],
        lambda content: content.replace(b"catalog.parquet", b"catalog.parquot"),
    ],
)
def test_damaged_checksums_are_named(
    whole: Path, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    """Lines that are cut, torn, doubled or of another name are a problem of SHA256SUMS itself."""

    def damage(folder: Path) -> None:
        (folder / SUMS_FILE).write_bytes(change((folder / SUMS_FILE).read_bytes()))

    problems = verified(damaged_copy(whole, tmp_path / "damaged", damage)).problems
    assert {problem.name for problem in problems} == {SUMS_FILE}, problems


def test_sha256sum_proves_a_dataset_too(whole: Path) -> None:
    """Every file stands in SHA256SUMS, and the common tool finds each as it says."""
    names = {str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file()}
    assert set(read_sums(Store(url=str(whole))) or {}) == names - {SUMS_FILE}
    assert set(file_names(open_dataset(str(whole)).info)) == names - {SUMS_FILE}
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS_FILE]
    subprocess.run(command, cwd=whole, check=True)


def test_a_photograph_without_its_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG cut before it was packed, so that all checksums agree, is no whole JPEG."""

    def cut(*args: object) -> bytes:
        return jpeg_of(*args)[:-1]  # type: ignore[arg-type]

    monkeypatch.setattr("tests.dataset_factory.jpeg_of", cut)
    make_dataset(str(tmp_path / "cut"))
    monkeypatch.undo()
    make_dataset(str(tmp_path / "good"))
    found = {name: messages(verified(str(tmp_path / name))) for name in ("cut", "good")}
    assert sum("is no whole JPEG" in message for message in found["cut"]) == 36
    assert not any("is no whole JPEG" in message for message in found["good"])


def messages(found: Verification) -> list[str]:
    return [problem.message for problem in found.problems]


def test_a_sample_is_always_the_same_and_grows(whole: Path, tmp_path: Path) -> None:
    """A share reads the same shards each time, a larger one these and more; all else is read."""
    num_shards = len(open_dataset(str(whole)).info.shards)
    read: list[set[str]] = []
    for share in (0.01, 0.3, 0.3, 0.6, 1.0):
        seen: list[ShardInfo] = []
        found = verify_dataset(str(whole), SerialRunner(), seen.append, share)
        assert (found.num_shards, found.num_shards_in_all) == (len(seen), num_shards)
        assert found.problems == ()
        read.append({shard.name for shard in seen})
    assert read[1] == read[2]
    assert read[0] < read[1] < read[3] < read[4]
    assert len(read[0]) == 1
    assert len(read[4]) == num_shards

    def damage(folder: Path) -> None:
        for name in read[4]:
            (folder / name.split("-")[0] / f"{name}.tar").write_bytes(b"")
        (folder / "splits.json").unlink()

    problems = verified(damaged_copy(whole, tmp_path / "damaged", damage), 0.3).problems
    assert {problem.shard for problem in problems} == read[1] | {None}
    for share in (0.0, -1.0, 1.1):
        with pytest.raises(ConfigError, match="sample is"):
            verified(str(whole), share)


def test_dask_finds_the_same_problems(whole: Path, tmp_path: Path) -> None:
    """Two spawned workers name what a serial run names."""

    def damage(folder: Path) -> None:
        flip_a_byte(folder)
        delete_rejects(folder)

    url = damaged_copy(whole, tmp_path / "damaged", damage)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with open_runner(ClusterSpec(cluster="distributed:LocalCluster", options=options)) as runner:
        assert verify_dataset(url, runner) == verified(url)


def test_a_large_tar_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    """Members of 256 MB, also such as only a damaged header declares, are read in pieces."""
    size = 256 * 2**20
    for kind, message in (
        (tarfile.REGTYPE, "ends in the middle"),
        (tarfile.GNUTYPE_LONGNAME, r"a\.jpg is no plain file"),
    ):
        member = tarfile.TarInfo("a.jpg")
        member.size, member.type = size, kind
        with (tmp_path / "large.tar").open("wb") as file:
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.truncate(size)
        tracemalloc.start()
        with (tmp_path / "large.tar").open("rb") as file:
            tar = TarReader(file)
            with pytest.raises(tarfile.ReadError, match=message):
                list(iter(tar.next_member, None))
            digest = tar.finish()
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        tracemalloc.stop()
        with (tmp_path / "large.tar").open("rb") as file:
            assert digest == hashlib.file_digest(file, "sha256").hexdigest()


def test_a_whole_dataset_has_no_problems(whole: Path) -> None:
    """Nothing is reported, and the counts are those of dataset.json."""
    found = verified(str(whole))
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


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 3},
        {"shards": [3]},
        {"classes": 3},
        {"ledger": []},
        {"settings": None},
        {"versions": "x"},
        {"plan_hash": 7},
        {"extra": 1},
        {"num_bytes": "7"},
        {"sha256": None},
    ],
    ids=str,
)
def test_a_dataset_json_with_wrong_fields_names_repair(
    whole: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    """JSON that is not what was written is refused, and what makes it again is named."""
    value = json.loads((whole / "dataset.json").read_text())
    target = value["shards"][0] if change.keys() & {"num_bytes", "sha256"} else value
    target.update(change)
    (tmp_path / "dataset.json").write_text(json.dumps(value))
    for read in (open_dataset, verified):
        with pytest.raises(DatasetError, match=r"is damaged .*serengeti-etl repair"):
            read(str(tmp_path))
    whole_index = DatasetIndex.read(Store(url=str(whole)))
    assert whole_index.content() == (whole / "dataset.json").read_bytes()


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
