"""Repair restores every byte, makes exactly what is damaged, and refuses what it cannot know."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from serengeti_etl.cluster import SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec, ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert import repair as repair_module
from serengeti_etl.convert.repair import Repair, pipeline_of, repair_dataset
from serengeti_etl.convert.season import convert_season, convert_sizes
from serengeti_etl.dataset.index import open_dataset, read_report, read_table, write_table
from serengeti_etl.dataset.sums import PLAN_FILES, SUMS_FILE, read_sums
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import ConfigError, DatasetError, Incomplete
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.convert.test_season import zipped

Damage = Callable[[Path], object]
LAST_FILES = ("index.parquet", SUMS_FILE, "dataset.json")


@pytest.fixture(scope="module")
def whole(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole dataset. Read only."""
    output = tmp_path_factory.mktemp("whole")
    convert_season(pipeline, SerialRunner(), str(output))
    return output


def repair(pipeline: SeasonPipeline, folder: Path) -> Repair:
    return repair_dataset(pipeline, SerialRunner(), str(folder))


def damaged_copy(whole: Path, folder: Path, *damages: Damage) -> Path:
    shutil.copytree(whole, folder)
    for damage in damages:
        damage(folder)
    return folder


def overwrite(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def delete(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def cut(name: str, share: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return damage


def flip(name: str, share: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[int(share * len(content))] ^= 1
        (folder / name).write_bytes(content)

    return damage


def swap(one: str, other: str) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / one).read_bytes()
        (folder / one).write_bytes((folder / other).read_bytes())
        (folder / other).write_bytes(content)

    return damage


@pytest.mark.parametrize("kind", ["columns", "shard"])
def test_rejects_of_something_else_are_made_again(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path, kind: str
) -> None:
    """As many rows of another kind, or of another shard: seen without SHA256SUMS too."""
    folder = damaged_copy(whole, tmp_path / "copy", delete(SUMS_FILE))
    shard = next(one for one in open_dataset(str(whole)).info.shards if one.num_rejected)
    name = f"rejects/{shard.name}.parquet"
    rows = read_table(Store(url=str(whole)), name)
    if kind == "columns":
        part = read_table(Store(url=str(whole)), f"index/{shard.name}.parquet")
        rows = part.slice(0, rows.num_rows)
    else:
        at = rows.column_names.index("shard")
        rows = rows.set_column(at, rows.schema.field(at), pa.array(["val-000009"] * rows.num_rows))
    write_table(Store(url=str(folder)), name, rows)
    problems = verify_dataset(str(folder), SerialRunner()).problems
    assert name in {problem.name for problem in problems}
    assert repair(pipeline, folder).shards == (shard.name,)
    assert files_below(folder) == files_below(whole)


def test_a_whole_dataset_is_left_as_it_is(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Nothing is made, written or removed."""
    folder = damaged_copy(whole, tmp_path / "copy")
    examined: list[str] = []
    mended = repair_dataset(
        pipeline, SerialRunner(), str(folder), lambda shard: examined.append(shard.name)
    )
    names = [shard.name for shard in open_dataset(str(whole)).info.shards]
    nothing = Repair(num_shards=len(names), shards=(), files=(), removed=(), problems=())
    assert mended == nothing
    assert examined == names
    assert files_below(folder) == files_below(whole)


@pytest.mark.parametrize(
    "case",
    [
        (flip("train/train-000001.tar"), ("train-000001",)),
        (cut("train/train-000001.tar"), ("train-000001",)),
        (overwrite("train/train-000001.tar", b""), ("train-000001",)),
        (delete("train/train-000001.tar"), ("train-000001",)),
        (swap("train/train-000000.tar", "val/val-000000.tar"), ("train-000000", "val-000000")),
        (flip("index/val-000000.parquet"), ("val-000000",)),
        (cut("index/val-000000.parquet"), ("val-000000",)),
        (delete("index/val-000000.parquet"), ("val-000000",)),
        (
            swap("index/train-000000.parquet", "index/train-000001.parquet"),
            ("train-000000", "train-000001"),
        ),
    ],
)
@pytest.mark.parametrize("lost", [(), ("dataset.json",), ("dataset.json", "index.parquet")])
def test_a_damaged_shard_alone_is_made_again(
    whole: Path,
    pipeline: SeasonPipeline,
    tmp_path: Path,
    case: tuple[Damage, tuple[str, ...]],
    lost: tuple[str, ...],
) -> None:
    """That shard and no other, to the same bytes, also where what names its checksum is lost."""
    damage, shards = case
    folder = damaged_copy(whole, tmp_path / "copy", damage, *(delete(name) for name in lost))
    mended = repair(pipeline, folder)
    assert mended.shards == shards
    assert set(mended.files) == set(lost)
    assert (mended.removed, mended.problems) == ((), ())
    assert files_below(folder) == files_below(whole)


@pytest.mark.parametrize("name", [*PLAN_FILES, *LAST_FILES])
@pytest.mark.parametrize(
    "damage", [delete, flip, cut, lambda name: overwrite(name, b"{}"), lambda name: flip(name, 0.9)]
)
def test_a_damaged_file_alone_is_written_again(
    whole: Path,
    pipeline: SeasonPipeline,
    tmp_path: Path,
    name: str,
    damage: Callable[[str], Damage],
) -> None:
    """Of the plan, the index or the checksums: that file, and no shard but for its checksum."""
    folder = damaged_copy(whole, tmp_path / "copy", damage(name))
    mended = repair(pipeline, folder)
    assert mended.files == (name,)
    assert len(mended.shards) <= (name == SUMS_FILE)
    assert files_below(folder) == files_below(whole)


def test_all_at_once(whole: Path, pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """Shards, rejects, index, catalog, settings and dataset.json together come back."""
    rejects = sorted(path.name for path in (whole / "rejects").glob("*-*.parquet"))
    folder = damaged_copy(
        whole,
        tmp_path / "copy",
        cut("val/val-000000.tar"),
        overwrite(f"rejects/{rejects[0]}", b"PAR1"),
        delete("index.parquet"),
        flip("catalog.parquet"),
        overwrite("plan/plan.json", b"{"),
        overwrite("dataset.json", b"\xff"),
    )
    mended = repair(pipeline, folder)
    assert set(mended.shards) == {"val-000000", rejects[0].removesuffix(".parquet")}
    lost = {"catalog.parquet", "plan/plan.json", "index.parquet", "dataset.json"}
    assert set(mended.files) == lost
    assert files_below(folder) == files_below(whole)


def test_dask_workers_mend_to_the_same_bytes(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Two spawned workers examine and make what a serial run does."""
    damages = (flip("train/train-000001.tar"), delete("index/val-000000.parquet"))
    folder = damaged_copy(whole, tmp_path / "copy", *damages)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with open_runner(ClusterSpec(cluster="distributed:LocalCluster", options=options)) as runner:
        mended = repair_dataset(pipeline, runner, str(folder))
    assert mended.shards == ("train-000001", "val-000000")
    assert files_below(folder) == files_below(whole)


def test_a_dataset_in_a_bucket_is_mended(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path, make_bucket: Callable[[str], str]
) -> None:
    """On a real S3 server: every object comes back as it was."""
    import s3fs

    url, fs = make_bucket("damaged"), s3fs.S3FileSystem()
    damages = (flip("train/train-000001.tar"), delete("val/val-000000.tar"), cut("index.parquet"))
    folder = damaged_copy(whole, tmp_path / "copy", *damages)
    fs.put(f"{folder}/", f"{url}/dataset/", recursive=True)
    mended = repair_dataset(pipeline, SerialRunner(), f"{url}/dataset")
    assert (mended.shards, mended.files) == (("train-000001", "val-000000"), ("index.parquet",))
    fs.get(f"{url}/dataset/", f"{tmp_path}/back/", recursive=True)
    assert files_below(tmp_path / "back") == files_below(whole)


def test_archives_are_read_where_they_lie(
    whole: Path, season: Path, tmp_path: Path, pipeline: SeasonPipeline
) -> None:
    """A shard of photographs in zips is made again from them."""
    names = zipped(season, tmp_path)
    shutil.copy(season / "labels.json", tmp_path)
    folder = damaged_copy(whole, tmp_path / "copy", flip("train/train-000001.tar"))
    repair(replace(pipeline, source=str(tmp_path), images=names), folder)
    assert files_below(folder) == files_below(whole)


def test_another_pipeline_is_refused_by_name(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Another size, seed or licence is named, whatever file is left to tell; nothing changes."""
    for changed, message in (
        (replace(pipeline, resize=ResizeSettings(size="64")), r"resize\.size was '96'"),
        (replace(pipeline, shards=ShardSettings(seed=3)), r"shards\.seed was 0 and is now 3"),
        (replace(pipeline, licence="mine"), "licence was '' and is now 'mine'"),
    ):
        for number, lost in enumerate(((), ("plan/plan.json",), ("dataset.json",))):
            folder = tmp_path / f"{changed.licence}{changed.resize.size}{number}"
            damaged_copy(whole, folder, flip("val/val-000000.tar"), *map(delete, lost))
            before = files_below(folder)
            with pytest.raises(ConfigError, match=message):
                repair(changed, folder)
            assert files_below(folder) == before
            shutil.rmtree(folder)


def test_what_is_not_this_dataset_at_all_is_refused(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """An empty folder, or shards of another plan without settings, is no dataset to repair."""
    other = replace(pipeline, resize=ResizeSettings(size="64"))
    lost = (delete("plan/plan.json"), overwrite("dataset.json", b"?"))
    folder = damaged_copy(whole, tmp_path / "copy", *lost)
    before = files_below(folder)
    with pytest.raises(DatasetError, match=r"nothing at .* is of the plan of this pipeline"):
        repair(other, folder)
    assert files_below(folder) == before
    repair(pipeline, folder)
    assert files_below(folder) == files_below(whole)
    with pytest.raises(DatasetError, match="`serengeti-etl convert` makes it"):
        repair(pipeline, tmp_path / "nothing")


def test_a_changed_source_is_an_error_and_dataset_json_stays(
    whole: Path, season: Path, tmp_path: Path
) -> None:
    """A photograph that is another one now is told; put back, repair restores every byte."""
    source = tmp_path / "source"
    shutil.copytree(season, source)
    shards = dict.fromkeys(["train-000001", "val-000001"], Path())
    for one in read_table(Store(url=str(whole)), "plan/plan.parquet").to_pylist():
        path = source / "images" / one["file_name"]
        if one["shard"] in shards and path.is_file() and path.stat().st_size:
            shards[one["shard"]] = path
    photograph, other = shards.values()
    content = photograph.read_bytes()
    shutil.copy(other, photograph)
    moved = season_pipeline(str(source))
    folder = damaged_copy(whole, tmp_path / "copy", cut("train/train-000001.tar"))
    for _ in range(2):
        with pytest.raises(DatasetError, match=r"the source has changed: 1 shards, such as train"):
            repair(moved, folder)
        problems = verify_dataset(str(folder), SerialRunner()).problems
        assert {problem.shard for problem in problems} == {"train-000001"}
        assert (folder / "dataset.json").read_bytes() == (whole / "dataset.json").read_bytes()
    shutil.copytree(folder, tmp_path / "taken")
    assert convert_season(moved, SerialRunner(), str(tmp_path / "taken")).num_made == 1
    assert verify_dataset(str(tmp_path / "taken"), SerialRunner()).problems == ()
    assert open_dataset(str(tmp_path / "taken")).info != open_dataset(str(whole)).info
    photograph.write_bytes(content)
    assert repair(moved, folder).shards == ("train-000001",)
    assert files_below(folder) == files_below(whole)
    # A shard that is whole in itself, but not the one that dataset.json has.
    for name in ("train/train-000001.tar", "index/train-000001.parquet"):
        shutil.copy(tmp_path / "taken" / name, folder / name)
    (folder / SUMS_FILE).unlink()
    assert repair(moved, folder).shards == ("train-000001",)
    assert files_below(folder) == files_below(whole)


def test_only_files_named_as_ours_are_removed(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Shards that the plan does not have go; whatever has another name stays, and is told."""
    bare = next(s.name for s in open_dataset(str(whole)).info.shards if not s.num_rejected)
    ours = [
        "train/train-999999.tar",
        "index/val-000123.parquet",
        "rejects/train-000777.parquet",
        f"rejects/{bare}.parquet",
    ]
    theirs = ["train/notes.txt", "train/val-000001.tar", "index/train-1.parquet", "mine/a.tar"]
    folder = damaged_copy(whole, tmp_path / "copy")
    for name in (*ours, *theirs):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    mended = repair(pipeline, folder)
    # The rejects of a shard without any speak against that shard: they go with it.
    assert mended.shards == (bare,)
    assert set(mended.removed) == set(ours[:3])
    assert {problem.name for problem in mended.problems} == set(theirs[:3])
    left = files_below(folder)
    assert {name for name in left if left[name] == b"x"} == set(theirs)
    assert {name: left[name] for name in left if left[name] != b"x"} == files_below(whole)


def test_shards_of_no_plan_of_ours_are_not_lost(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A shard that dataset.json has and the plan has not, and that is there, stops the repair."""
    folder = damaged_copy(whole, tmp_path / "copy")
    store = Store(url=str(folder))
    report = read_report(store, "val-000000")
    assert report is not None
    added = replace(report, name="val-more-000000")
    rows = read_table(store, "index/val-000000.parquet").replace_schema_metadata(None)
    write_table(store, "index/val-more-000000.parquet", rows, report=added)
    index = open_dataset(str(folder)).info
    replace(index, shards=(*index.shards, added)).write(store)
    before = files_below(folder)
    with pytest.raises(DatasetError, match=r"val-more-000000 .* is not in the plan"):
        repair(pipeline, folder)
    assert files_below(folder) == before


def test_one_of_several_sizes_is_mended_alone(season: Path, tmp_path: Path) -> None:
    """By the last part of the output; the others are not touched, all at once not asked."""
    several = replace(season_pipeline(str(season)), resize=ResizeSettings(), sizes=("48", "128x96"))
    convert_sizes(several, SerialRunner(), str(tmp_path))
    before = files_below(tmp_path)
    for size in several.sizes:
        cut("train/train-000000.tar")(tmp_path / size)
    other = (tmp_path / "48" / "train" / "train-000000.tar").read_bytes()
    output = f"{tmp_path}/128x96/"
    mended = repair_dataset(pipeline_of(several, output), SerialRunner(), output)
    assert mended.shards == ("train-000000",)
    assert files_below(tmp_path) == before | {"48/train/train-000000.tar": other}
    with pytest.raises(ConfigError, match="one size is repaired at a time"):
        repair_dataset(pipeline_of(several, str(tmp_path)), SerialRunner(), str(tmp_path))


def test_an_outage_damages_nothing(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard that cannot be read now is not taken for a damaged one: run it again."""

    def away(*_: Any) -> bool:
        raise ConnectionError("the bucket is away")

    folder = damaged_copy(whole, tmp_path / "copy")
    monkeypatch.setattr(repair_module, "is_whole", away)
    with pytest.raises(Incomplete, match=r"shard train-000000 cannot be read .*bucket is away"):
        repair(pipeline, folder)
    assert files_below(folder) == files_below(whole)


def test_a_repair_killed_half_way_is_finished_by_the_next(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after the shards are made: the same call restores every byte."""

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for name in ("make_missing", "finish"):
        damages = (flip("train/train-000001.tar"), flip("splits.json"), delete("dataset.json"))
        folder = damaged_copy(whole, tmp_path / name, *damages)
        with monkeypatch.context() as patch:
            patch.setattr(repair_module, name, killed)
            with pytest.raises(KeyboardInterrupt):
                repair(pipeline, folder)
        repair(pipeline, folder)
        assert files_below(folder) == files_below(whole)


def test_checksums_of_an_older_dataset_are_written(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A dataset without SHA256SUMS gets them by repair, and by convert; no shard is made."""
    wanted = read_sums(Store(url=str(whole)))
    for mend in (repair, lambda one, to: convert_season(one, SerialRunner(), str(to))):
        folder = damaged_copy(whole, tmp_path / "copy", delete(SUMS_FILE))
        mend(pipeline, folder)
        assert read_sums(Store(url=str(folder))) == wanted
        assert files_below(folder) == files_below(whole)
        shutil.rmtree(folder)


def test_convert_over_a_damaged_plan_names_repair(
    whole: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A plan.json that is no JSON is one line that says what mends it."""
    folder = damaged_copy(whole, tmp_path / "copy", overwrite("plan/plan.json", b"{"))
    with pytest.raises(DatasetError, match=r"plan\.json at .* is damaged .*serengeti-etl repair"):
        convert_season(pipeline, SerialRunner(), str(folder))
    assert json.loads((folder / "dataset.json").read_text())["format"]
