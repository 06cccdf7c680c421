"""Several sizes in one pass: each dataset is, byte for byte, what it would be alone."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.catalog.read import read_labels
from serengeti_etl.catalog.selection import select_images
from serengeti_etl.cluster import SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec, ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert import plain_jpeg, planned
from serengeti_etl.convert import resize as resize_module
from serengeti_etl.convert import shard as shard_module
from serengeti_etl.convert.plan import make_plan, make_plans
from serengeti_etl.convert.season import Conversion, convert_season, convert_sizes
from serengeti_etl.convert.shard import LOCATIONS_FILE, ShardTask
from serengeti_etl.convert.tally import Progress
from serengeti_etl.dataset.index import open_dataset, read_table
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import ConfigError, Incomplete, TooManyFailures
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.convert.test_plan import PIPELINE, catalog
from tests.convert.test_season import zipped

SIZES = ("48", "128x96", "short64")


def sizes_pipeline(source: str) -> SeasonPipeline:
    """The pipeline of the tests for a drawn season, at three sizes, none the largest everywhere."""
    return replace(season_pipeline(source), resize=ResizeSettings(quality=90), sizes=SIZES)


@pytest.fixture(scope="module")
def several(season: Path) -> SeasonPipeline:
    """The drawn season at three sizes."""
    return sizes_pipeline(str(season))


@pytest.fixture(scope="module")
def alone(several: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of each size converted alone, by its name below a common folder."""
    output = tmp_path_factory.mktemp("alone")
    for size in SIZES:
        convert_season(several.of_size(size), SerialRunner(), str(output / size))
    return files_below(output)


def convert(pipeline: SeasonPipeline, output: Path) -> dict[str, Conversion]:
    return dict(convert_sizes(pipeline, SerialRunner(), str(output)))


def test_each_size_is_what_it_would_be_alone(
    several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Every file of every size equals that of converting this size alone, and verifies."""
    made = convert(several, tmp_path)
    assert tuple(made) == SIZES
    assert files_below(tmp_path) == alone
    for size in SIZES:
        url = str(tmp_path / size)
        assert open_dataset(url).info == made[size].index
        assert verify_dataset(url, SerialRunner()).problems == ()
        shape = open_dataset(url).index(columns=["width", "height"]).to_pylist()[0]
        assert shape == dict(zip(("width", "height"), WANTED[size], strict=True))


WANTED = {"48": (48, 36), "128x96": (128, 96), "short64": (85, 64)}


def test_the_order_of_sizes_does_not_show(
    several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """The same sizes named in another order are the same datasets."""
    convert(replace(several, sizes=SIZES[::-1]), tmp_path)
    assert files_below(tmp_path) == alone


def test_dask_workers_give_the_same_bytes(
    several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Two spawned workers: every file of every size equals that of a serial run."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with open_runner(ClusterSpec(cluster="distributed:LocalCluster", options=options)) as runner:
        convert_sizes(several, runner, str(tmp_path))
    assert files_below(tmp_path) == alone


def test_all_sizes_have_the_same_images_in_the_same_shards(
    several: SeasonPipeline, tmp_path: Path
) -> None:
    """Order, shards, labels and sources are the same at each size; only pixels differ."""
    convert(several, tmp_path)
    columns = ["image_id", "shard", "split", "labels", "source_num_bytes"]
    first, *others = (open_dataset(str(tmp_path / size)).index(columns=columns) for size in SIZES)
    assert first.num_rows > 0
    assert all(other == first for other in others)
    digests = [open_dataset(str(tmp_path / size)).index(columns=["sha256"]) for size in SIZES]
    assert digests[0] != digests[1] != digests[2]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 5), min_size=6, max_size=80),
    target_bytes=st.integers(400_000, 4_000_000),
    sizes=st.permutations(["512x384", "short256", "64", "300", "128x96"]).map(
        lambda some: some[:3]
    ),
)
def test_any_mix_of_sizes_has_one_plan(
    lengths: list[int], target_bytes: int, sizes: list[str]
) -> None:
    """The plans share all rows, equal each size's own, and keep the largest size's limit."""
    shards = ShardSettings(target_bytes=target_bytes, max_samples=40)
    pipeline = replace(PIPELINE, shards=shards, sizes=tuple(sizes))
    selection = select_images(catalog(lengths), pipeline)
    pipelines = list(pipeline.by_folder().values())
    plans = make_plans(selection, pipelines, "e 1")
    assert plans == tuple(make_plan(selection, one, "e 1") for one in pipelines)
    assert all(plan.rows == plans[0].rows for plan in plans)
    assert len({plan.plan_hash for plan in plans}) == len(sizes)
    assert len({shard.fingerprint for plan in plans for shard in plan.shards}) == len(sizes) * len(
        plans[0].shards
    )
    limit = min(shards.num_samples(ResizeSettings(size=size)) for size in sizes)
    assert max(shard.num_images for shard in plans[0].shards) <= limit


def test_a_photograph_is_read_and_decoded_once(
    several: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sizes cost as many labels, bytes and decodes as one, and totals count them once."""
    real, calls = plain_jpeg.decode_scaled, []

    def counting(*args: Any) -> Any:
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(resize_module, "decode_scaled", counting)
    one = convert_season(several.of_size("48"), SerialRunner(), str(tmp_path / "one"))
    num_decodes = len(calls)
    labels: list[SeasonPipeline] = []

    def reading(pipeline: SeasonPipeline, scratch: Path) -> Any:
        labels.append(pipeline)
        return read_labels(pipeline, scratch)

    monkeypatch.setattr(planned, "read_labels", reading)
    made = convert(several, tmp_path / "all")
    assert len(labels) == 1
    assert num_decodes > 40
    assert len(calls) == 2 * num_decodes
    assert {each.num_source_bytes for each in made.values()} == {one.num_source_bytes}
    assert set(made["48"].seconds) == set(one.seconds)


def test_progress_counts_photographs_not_files(several: SeasonPipeline, tmp_path: Path) -> None:
    """Each shard is told once, whatever the number of sizes, and is new unless all had it."""
    seen: list[Progress] = []
    convert_sizes(several, SerialRunner(), str(tmp_path), seen.append)
    (num_planned,) = {one.num_planned for one in seen}
    assert sum(one.num_images for one in seen) == num_planned
    assert sum(one.num_rejected for one in seen) == 3
    assert len({one.name for one in seen}) == len(seen)
    assert all(one.is_new for one in seen)
    (tmp_path / SIZES[1] / "index" / f"{seen[2].name}.parquet").unlink()
    again: list[Progress] = []
    convert_sizes(several, SerialRunner(), str(tmp_path), again.append)
    assert sorted(one.name for one in again) == sorted(one.name for one in seen)
    assert [one.name for one in again if one.is_new] == [seen[2].name]
    assert sum(one.num_source_bytes for one in again) == seen[2].num_source_bytes


class Killed(BaseException):
    """Ends a conversion as abruptly as can be inside this process."""


@contextmanager
def killed_before_write(number: int) -> Iterator[list[str]]:
    """Ends whatever runs before its write of that number; the names written by then."""
    written: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for method in ("write", "upload"):
            real = getattr(Store, method)

            def writing(store: Store, *args: Any, real: Callable[..., None] = real) -> None:
                if len(written) == number:
                    raise Killed
                names = [arg for arg in args if isinstance(arg, str)]
                real(store, *args)
                written.append(f"{store.url}/{names[0]}")

            patch.setattr(Store, method, writing)
        real_create = Store.create

        @contextmanager
        def creating(store: Store, name: str) -> Iterator[Callable[[bytes], object]]:
            with real_create(store, name) as append:
                yield append
                if len(written) == number:
                    raise Killed
            written.append(f"{store.url}/{name}")

        patch.setattr(Store, "create", creating)
        yield written


def commits_below(folder: Path) -> set[str]:
    """The tars that have a commit record, by their full names."""
    parts = folder.glob("*/index/*.parquet")
    return {f"{part.parents[1]}/{part.stem[:-7]}/{part.stem}.tar" for part in parts}


def test_killed_before_any_write_it_goes_on(several: SeasonPipeline, tmp_path: Path) -> None:
    """Ended before its 1st, 2nd … write until it ends by itself: equal bytes, no tar made twice."""
    pipeline = replace(several, sizes=SIZES[:2])
    expected = tmp_path / "expected"
    convert(pipeline, expected)
    output, num_killed = tmp_path / "killed", 0
    for number in range(200):
        committed = commits_below(output)
        with killed_before_write(number) as written:
            try:
                convert(pipeline, output)
            except Killed:
                num_killed += 1
            else:
                break
            finally:
                assert not committed & set(written)
        for size in pipeline.sizes:
            if (output / size / "dataset.json").exists():
                tars = len(open_dataset(str(output / size)).info.shards)
                assert len(list((output / size / "index").iterdir())) == tars
    assert num_killed > 12
    assert files_below(output) == files_below(expected)


KILLED_CODE = """
import os, signal, sys
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert import shard
from serengeti_etl.convert.season import convert_sizes
from tests.convert.test_sizes import sizes_pipeline
real, number = shard._Shard.commit, 0

def commit(self):
    global number
    if number == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    number += 1
    return real(self)

shard._Shard.commit = commit
convert_sizes(sizes_pipeline(sys.argv[1]), SerialRunner(), sys.argv[2])
"""


def test_sigkill_between_the_commits_of_two_sizes(
    season: Path, several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Killed when a shard is there at one size of three: only what is missing is made after."""
    command = [sys.executable, "-c", KILLED_CODE, str(season), str(tmp_path), "4"]
    ended = subprocess.run(command, check=False, cwd=Path(__file__).parents[2])
    assert ended.returncode == -signal.SIGKILL
    assert [len(list((tmp_path / size).glob("index/*"))) for size in SIZES] == [2, 1, 1]
    assert not list(tmp_path.glob("*/dataset.json"))
    made = convert(several, tmp_path)
    num_shards = len(made["48"].index.shards)
    assert [made[size].num_made for size in SIZES] == [num_shards - n for n in (2, 1, 1)]
    assert files_below(tmp_path) == alone


def test_a_task_has_only_the_sizes_that_lack_its_shard(
    several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """A lost tar and a lost commit record of other sizes: two tasks, of one output each."""
    convert(several, tmp_path)
    (tmp_path / "48" / "val" / "val-000000.tar").unlink()
    (tmp_path / "short64" / "index" / "train-000001.parquet").unlink()
    tasks: list[ShardTask] = []

    class Recorder(SerialRunner):
        """Keeps the tasks it is given."""

        def map(self, function: Any, given: Any) -> Any:
            """As the serial runner, after a note of each task."""
            tasks.extend(given)
            return super().map(function, tasks)

    made = convert_sizes(several, Recorder(), str(tmp_path))
    found = {
        task.name: [output.store.url.rsplit("/", 1)[-1] for output in task.outputs]
        for task in tasks
    }
    assert found == {"val-000000": ["48"], "train-000001": ["short64"]}
    assert [made[size].num_made for size in SIZES] == [1, 0, 1]
    assert files_below(tmp_path) == alone


def test_a_task_of_several_sizes_is_a_pointer(several: SeasonPipeline, tmp_path: Path) -> None:
    """With three sizes it still pickles to less than two kilobytes."""
    import pickle

    sizes: list[int] = []

    class Recorder(SerialRunner):
        """Measures the tasks it is given."""

        def map(self, function: Any, tasks: Any) -> Any:
            """As the serial runner, after a look at each task."""
            tasks = list(tasks)
            sizes.extend(len(pickle.dumps(task)) for task in tasks)
            return super().map(function, tasks)

    convert_sizes(several, Recorder(), str(tmp_path))
    assert 0 < max(sizes) < 2000


def test_a_size_is_finished_when_its_own_shards_are_there(
    several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path, monkeypatch: Any
) -> None:
    """One size lacks a shard that cannot be made: only the others get their dataset.json."""
    convert(several, tmp_path)
    for size in SIZES:
        (tmp_path / size / "dataset.json").unlink()
    (tmp_path / "48" / "val" / "val-000000.tar").unlink()

    def failing(*_args: Any) -> Any:
        raise ConnectionError("the bucket is away")

    with monkeypatch.context() as patch:
        patch.setattr(shard_module, "fetch_in_order", failing)
        with pytest.raises(Incomplete, match=r"1 shards failed, such as val-000000: the bucket"):
            convert(several, tmp_path)
    there = sorted(path.parent.name for path in tmp_path.glob("*/dataset.json"))
    assert there == ["128x96", "short64"]
    convert(several, tmp_path)
    assert files_below(tmp_path) == alone


def test_archives_give_the_bytes_of_a_folder_at_each_size(
    season: Path, several: SeasonPipeline, alone: dict[str, bytes], tmp_path: Path
) -> None:
    """Places in zips are written once, beside a size that needs them, and gone at the end."""
    source, output = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "labels.json").write_bytes((season / "labels.json").read_bytes())
    pipeline = replace(several, source=str(source), images=zipped(season, source))
    seen: list[list[Path]] = []

    def look(_progress: Progress) -> None:
        seen.append(list(output.glob(f"*/{LOCATIONS_FILE}")))

    convert_sizes(pipeline, SerialRunner(), str(output), look)
    assert files_below(output) == alone
    assert seen[0] == [output / SIZES[0] / LOCATIONS_FILE]
    (output / SIZES[1] / "val" / "val-000000.tar").unlink()
    seen.clear()
    convert_sizes(pipeline, SerialRunner(), str(output), look)
    assert files_below(output) == alone
    assert seen[-1] == [output / SIZES[1] / LOCATIONS_FILE]


def test_another_plan_in_one_folder_is_refused_before_anything_is_written(
    several: SeasonPipeline, tmp_path: Path
) -> None:
    """Whichever size is in the way, the message names its folder and what changed."""
    convert_season(several.of_size(SIZES[2]), SerialRunner(), str(tmp_path / SIZES[2]))
    before = files_below(tmp_path)
    fewer = replace(several, sizes=SIZES[1:])
    with pytest.raises(ConfigError, match=r"short64 already holds .*resize\.decode_sizes was \["):
        convert(fewer, tmp_path)
    assert files_below(tmp_path) == before


def test_each_function_refuses_the_other_s_pipeline(
    several: SeasonPipeline, tmp_path: Path
) -> None:
    """A pipeline with sizes goes to ``convert_sizes``, one without to ``convert_season``."""
    with pytest.raises(ConfigError, match="call convert_sizes"):
        convert_season(several, SerialRunner(), str(tmp_path))
    with pytest.raises(ConfigError, match="call convert_season"):
        convert_sizes(several.of_size("48"), SerialRunner(), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_too_many_rejects_stop_all_sizes(several: SeasonPipeline, tmp_path: Path) -> None:
    """A photograph that is broken counts once in each size's budget, not three times in one."""
    seen: list[Progress] = []
    convert_sizes(several, SerialRunner(), str(tmp_path / "first"), seen.append)
    exactly = 3 / seen[0].num_planned
    convert(replace(several, max_reject_share=exactly), tmp_path / "enough")
    with pytest.raises(TooManyFailures, match=r"3 of \d+ planned images were rejected"):
        convert(replace(several, max_reject_share=exactly * 0.9), tmp_path / "strict")
    assert not list((tmp_path / "strict").glob("*/dataset.json"))


def test_settings_read_back_from_a_dataset_prepare_the_same_bytes(
    several: SeasonPipeline, tmp_path: Path
) -> None:
    """What dataset.json says of ``resize`` is enough to make the JPEGs of its shards again."""
    convert(several, tmp_path)
    for size in SIZES:
        folder = tmp_path / size
        said = json.loads((folder / "dataset.json").read_text())["settings"]["resize"]
        row = open_dataset(str(folder)).index().to_pylist()[0]
        catalog_rows = read_table(Store(url=str(folder)), "catalog.parquet").to_pylist()
        (name,) = (one["file_name"] for one in catalog_rows if one["image_id"] == row["image_id"])
        photograph = (Path(several.source) / "images" / name).read_bytes()
        again = resize_module.resize_jpeg(photograph, ResizeSettings(**said))
        tar = (folder / row["split"] / f"{row['shard']}.tar").read_bytes()
        assert tar[row["offset"] : row["offset"] + row["num_bytes"]] == again.jpeg
