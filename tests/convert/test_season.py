"""Conversion: same plan, same bytes, wherever and however often it runs and is killed."""

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from PIL import Image

from serengeti_etl.cluster import SerialRunner, open_runner
from serengeti_etl.config import ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert import shard as shard_module
from serengeti_etl.convert.fetch import fetch_in_order
from serengeti_etl.convert.season import Conversion, convert_season
from serengeti_etl.convert.shard import ShardOutput, ShardTask
from serengeti_etl.convert.tally import Progress
from serengeti_etl.dataset.index import open_dataset, read_table
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import (
    CatalogError,
    ConfigError,
    DatasetError,
    Incomplete,
    TooManyFailures,
)
from serengeti_etl.label_config import Rules, SiteListSplit
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline


def convert(pipeline: SeasonPipeline, output: Path) -> Conversion:
    return convert_season(pipeline, SerialRunner(), str(output))


@pytest.fixture(scope="module")
def converted(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn season, converted undisturbed on one process. Read only."""
    output = tmp_path_factory.mktemp("converted")
    convert(pipeline, output)
    return output


def rejects_of(output: Path) -> list[dict[str, Any]]:
    names = sorted((output / "rejects").glob("*.parquet"))
    store = Store(url=str(output))
    return [row for name in names for row in read_table(store, f"rejects/{name.name}").to_pylist()]


def test_the_ledger_balances_and_names_every_broken_file(
    converted: Path, pipeline: SeasonPipeline
) -> None:
    """Every row of the label file is in a shard, or in the rejects with its reason."""
    ledger = open_dataset(str(converted)).info.ledger
    assert ledger["num_images"] == ledger["num_in_shards"] + len(rejects_of(converted))
    assert ledger["rejected"] == {"empty_file": 1, "missing": 1, "truncated": 1}
    assert ledger["excluded"] == {"dropped": 2, "unlabelled": 1}
    stages = {row["reason"]: row["stage"] for row in rejects_of(converted)}
    assert stages == {
        "empty_file": "resize",
        "truncated": "resize",
        "missing": "fetch",
        "unlabelled": "plan",
        "dropped": "plan",
    }
    assert verify_dataset(str(converted), SerialRunner()).problems == ()
    assert not list(converted.rglob("*.partial"))
    assert pipeline.source not in (converted / "dataset.json").read_text()


def test_no_site_and_no_sequence_is_on_both_sides(converted: Path) -> None:
    """Train and val share neither site nor sequence."""
    dataset = open_dataset(str(converted))
    for column in ("site", "seq_id"):
        train, val = (set(dataset.index(split)[column].to_pylist()) for split in ("train", "val"))
        assert train
        assert val
        assert not train & val


def test_the_split_and_the_annotations_are_written_out(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """splits.json makes the same dataset again, and annotations lie beside the catalog."""
    dataset = open_dataset(str(converted))
    listed = json.loads((converted / "splits.json").read_text())
    for split in dataset.splits:
        assert set(dataset.index(split)["site"].to_pylist()) <= set(listed["splits"][split])
    again = replace(pipeline, split=SiteListSplit(url=str(converted / "splits.json")))
    convert(again, tmp_path / "again")
    for split in dataset.splits:
        assert open_dataset(str(tmp_path / "again")).index(split) == dataset.index(split)
    annotations = read_table(Store(url=str(converted)), "annotations.parquet")
    catalog = read_table(Store(url=str(converted)), "catalog.parquet")
    assert set(annotations["image_id"].to_pylist()) <= set(catalog["image_id"].to_pylist())


def test_thinning_is_counted_and_the_true_prior_kept(
    pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Thinned images are excluded by that rule, and dataset.json has both shares of ``empty``."""
    rare = replace(pipeline, rules=Rules(max_empty_share=0.05))
    convert(rare, tmp_path / "thin")
    info = open_dataset(str(tmp_path / "thin")).info
    assert info.ledger["excluded"]["thinned"] > 0
    before, after = (info.priors[key]["shares"] for key in ("before", "after"))
    assert after.get("empty", 0) <= 0.05 < before["empty"]
    assert verify_dataset(str(tmp_path / "thin"), SerialRunner()).problems == ()


def test_the_webdataset_library_reads_the_same_samples(converted: Path) -> None:
    """Its own reader gives the keys, bytes and labels of the index, in the order of the index."""
    dataset = open_dataset(str(converted))
    for split in dataset.splits:
        tars = [str(converted / shard.tar_name) for shard in dataset.shards(split)]
        samples = list(wds.WebDataset(tars, shardshuffle=False, empty_check=False))
        rows = dataset.index(split).to_pylist()
        assert [sample["__key__"] for sample in samples] == [row["image_id"] for row in rows]
        for sample, row in zip(samples, rows, strict=True):
            assert hashlib.sha256(sample["jpg"]).hexdigest() == row["sha256"]
            sidecar = json.loads(sample["json"])
            assert sidecar["labels"] == row["labels"]
            assert (sidecar["seq_id"], sidecar["site"]) == (row["seq_id"], row["site"])
            size = Image.open(io.BytesIO(sample["jpg"])).size
            assert size == (row["width"], row["height"])


def test_twice_is_once_and_another_seed_is_another_dataset(
    converted: Path, pipeline: SeasonPipeline, fresh: Callable[[str], Path]
) -> None:
    """A second run gives equal bytes, and another shard seed other tars."""
    convert(pipeline, fresh("again"))
    assert files_below(fresh_path(fresh, "again")) == files_below(converted)
    other = replace(pipeline, shards=replace(pipeline.shards, seed=7))
    output = fresh("other")
    convert(other, output)
    mine, theirs = files_below(converted), files_below(output)
    tars = [name for name in mine if name.endswith(".tar")]
    assert tars
    assert all(mine[name] != theirs.get(name) for name in tars)


def fresh_path(fresh: Callable[[str], Path], name: str) -> Path:
    """The folder that ``fresh`` made, without emptying it."""
    return Path(fresh("probe")).with_name(name)


def test_a_finished_conversion_is_left_as_it_is(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Run again over a finished dataset, no shard is made and no byte changes."""
    output = tmp_path / "copy"
    shutil.copytree(converted, output)
    seen: list[Progress] = []
    result = convert_season(pipeline, SerialRunner(), str(output), seen.append)
    assert result.num_made == 0
    assert len(seen) == len(result.index.shards)
    assert not any(progress.is_new for progress in seen)
    assert files_below(output) == files_below(converted)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_dask_workers_give_the_bytes_of_a_serial_run(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path, num_workers: int
) -> None:
    """One spawned worker or two: every file equals the serial run's."""
    from serengeti_etl.config import ClusterSpec

    options = {
        "n_workers": num_workers,
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
    }
    spec = ClusterSpec(cluster="distributed:LocalCluster", options=options)
    with open_runner(spec) as runner:
        convert_season(pipeline, runner, str(tmp_path / "dask"))
    assert files_below(tmp_path / "dask") == files_below(converted)


def test_a_bucket_gives_the_bytes_of_a_folder(
    converted: Path, season: Path, make_bucket: Callable[[str], str], tmp_path: Path
) -> None:
    """Photographs from a real S3 server, dataset to it: every object equals the local file."""
    import s3fs

    source, output = make_bucket("source"), make_bucket("output")
    fs = s3fs.S3FileSystem()
    fs.put(f"{season}/", f"{source}/season/", recursive=True)
    convert_season(season_pipeline(f"{source}/season"), SerialRunner(), f"{output}/dataset")
    fs.get(f"{output}/dataset/", f"{tmp_path}/back/", recursive=True)
    assert files_below(tmp_path / "back") == files_below(converted)
    assert verify_dataset(f"{output}/dataset", SerialRunner()).problems == ()


CONVERT_CODE = """
import sys, time
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from tests.conftest import season_pipeline
print("ready", flush=True)
started = time.perf_counter()
convert_season(season_pipeline(sys.argv[1]), SerialRunner(), sys.argv[2])
print(time.perf_counter() - started)
"""


def start_conversion(season: Path, output: Path) -> "subprocess.Popen[str]":
    """A process that has imported everything and is about to convert."""
    process = subprocess.Popen(
        [sys.executable, "-c", CONVERT_CODE, str(season), str(output)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(scope="module")
def undisturbed_seconds(season: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long the conversion takes when nobody kills it."""
    process = start_conversion(season, tmp_path_factory.mktemp("timed") / "out")
    return float(process.communicate()[0])


@pytest.mark.parametrize("seed", range(4))
def test_a_conversion_killed_anywhere_is_finished_by_the_same_command(
    converted: Path, season: Path, tmp_path: Path, seed: int, undisturbed_seconds: float
) -> None:
    """SIGKILL at random moments, three times, then once to the end: equal bytes."""
    output = tmp_path / "killed"
    draw = random.Random(seed)  # noqa: S311 - a repeatable moment, not a secret
    codes, longest_seconds = list[int](), 0.8 * undisturbed_seconds
    while len(codes) < 3:
        process = start_conversion(season, output)
        time.sleep(draw.uniform(0.0, longest_seconds))
        process.kill()
        codes.append(process.wait())
        assert codes[-1] in (-signal.SIGKILL, 0)
        # One that had finished before its moment is no failure; to begin with it is no test, and
        # comes of a machine that was slow while the time was taken.
        if -signal.SIGKILL not in codes:
            shutil.rmtree(output)
            codes, longest_seconds = [], longest_seconds / 2
    process = start_conversion(season, output)
    process.communicate()
    assert process.returncode == 0
    assert files_below(output) == files_below(converted)


TORN = {"train-000000", "train-000001", "train-000002"}


def test_damage_does_not_get_a_checksum_of_its_own(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Convert over a finished dataset of which a file has changed refuses, and names repair."""
    for name in ("catalog.parquet", "splits.json", "rejects/plan.parquet"):
        output = tmp_path / name
        shutil.copytree(converted, output)
        content = bytearray((output / name).read_bytes())
        content[len(content) // 2] ^= 1
        (output / name).write_bytes(content)
        before = files_below(output)
        with pytest.raises(DatasetError, match=rf"{name} at .* run `serengeti-etl repair`"):
            convert(pipeline, output)
        assert files_below(output) == before


def test_a_torn_commit_is_made_again(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """A tar missing or cut, a foreign commit record, rejects lost or foreign: made again alone."""
    output = tmp_path / "torn"
    shutil.copytree(converted, output)
    tars = sorted((output / "train").glob("*.tar"))
    tars[0].unlink()
    tars[1].write_bytes(tars[1].read_bytes()[:1000])
    (output / "index" / f"{tars[2].stem}.parquet").write_bytes(b"not parquet")
    (output / "dataset.json").unlink()
    rejects = [path for path in (output / "rejects").glob("*-*") if path.stem not in TORN]
    rejects[0].unlink()
    rejects[1].write_bytes(b"not parquet")
    result = convert(pipeline, output)
    assert result.num_made == 5
    assert files_below(output) == files_below(converted)


def test_a_changed_setting_is_refused_by_name(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """Another size, seed or label file does not mix with what is there; the old stays untouched."""
    output = tmp_path / "copy"
    shutil.copytree(converted, output)
    for changed, message in (
        (
            replace(pipeline, resize=ResizeSettings(size="64")),
            r"resize\.size was '96' and is now '64'",
        ),
        (replace(pipeline, shards=ShardSettings(seed=3)), r"shards\.seed was 0 and is now 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(changed, output)
    assert files_below(output) == files_below(converted)


def test_too_many_rejects_stop_the_run_and_are_named(
    pipeline: SeasonPipeline, tmp_path: Path, converted: Path
) -> None:
    """Beyond the budget the run stops with examples; with a larger budget it continues."""
    with pytest.raises(TooManyFailures, match=r"planned images were rejected .*for example"):
        convert(replace(pipeline, max_reject_share=0.0), tmp_path / "strict")
    assert not (tmp_path / "strict" / "dataset.json").exists()
    convert(pipeline, tmp_path / "strict")
    assert files_below(tmp_path / "strict") == files_below(converted)


def test_an_outage_blames_no_photograph(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path
) -> None:
    """A store that fails makes the shard fail, not its images; the same call then finishes."""
    real = fetch_in_order
    calls = iter(range(100))

    def failing(*args: Any) -> Any:
        if next(calls) == 1:
            raise ConnectionError("the bucket is away")
        return real(*args)

    monkeypatch.setattr("serengeti_etl.convert.shard.fetch_in_order", failing)
    with pytest.raises(Incomplete, match=r"1 shards failed, such as .*the bucket is away"):
        convert(pipeline, tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    convert(pipeline, tmp_path / "out")
    assert files_below(tmp_path / "out") == files_below(converted)


def test_a_worker_with_another_libvips_refuses(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two builds of libvips are never mixed in one dataset."""
    monkeypatch.setattr(shard_module, "encoder_version", lambda: "libvips 8.14.1")
    with pytest.raises(ConfigError, match=r"this worker has libvips 8\.14\.1"):
        convert(pipeline, tmp_path / "out")


def test_a_task_is_a_pointer(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """A task holds no rows of the plan: it pickles to well under a kilobyte and a half."""
    import pickle

    class Recorder(SerialRunner):
        """Keeps the tasks it is given."""

        sizes: list[int] = []  # noqa: RUF012 - one test, one class

        def map(self, function: Any, tasks: Any) -> Any:
            """As the serial runner, after a look at each task."""
            tasks = list(tasks)
            self.sizes.extend(len(pickle.dumps(task)) for task in tasks)
            return super().map(function, tasks)

    convert_season(pipeline, Recorder(), str(tmp_path / "out"))
    assert 0 < max(Recorder.sizes) < 1500


def test_the_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    """The Serengeti originals: 31 rows = 23 in shards + 3 missing + 4 dropped + 1 unlabelled."""
    from serengeti_etl.cli.options import load_pipeline

    path = Path(__file__).parents[2] / "pipelines" / "serengeti_mini.py"
    pipeline = load_pipeline(path, source=str(shared_data / "serengeti"), limit=None)
    result = convert(pipeline, tmp_path / "mini")
    assert result.ledger.as_dict() == {
        "num_images": 31,
        "num_in_shards": 23,
        "rejected": {"missing": 3},
        "excluded": {"dropped": 4, "unlabelled": 1},
        "duplicates": {},
    }
    assert verify_dataset(str(tmp_path / "mini"), SerialRunner()).problems == ()
    val_sites = set(open_dataset(str(tmp_path / "mini")).index("val")["site"].to_pylist())
    assert val_sites == {"D04", "H04"}


def zipped(season: Path, folder: Path) -> tuple[str, ...]:
    """The photographs of a season in two zips, one deflated, below a folder of their own."""
    paths = sorted(path for path in (season / "images").rglob("*") if path.is_file())
    for name, part, method in (
        ("part_1.zip", paths[::2], zipfile.ZIP_STORED),
        ("part_2.zip", paths[1::2], zipfile.ZIP_DEFLATED),
    ):
        with zipfile.ZipFile(folder / name, "w", method) as archive:
            for path in part:
                archive.write(path, f"S1_v2_0/{path.relative_to(season / 'images')}")
    return "part_1.zip", "part_2.zip"


def tarred(season: Path, folder: Path) -> tuple[str, ...]:
    """The photographs of a season in one tar."""
    with tarfile.open(folder / "all.tar", "w", dereference=True) as archive:
        archive.add(season / "images", ".")
    return ("all.tar",)


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_give_the_bytes_of_a_folder(
    converted: Path, season: Path, tmp_path: Path, pack: Callable[[Path, Path], tuple[str, ...]]
) -> None:
    """Two zips below a folder of their own, or a tar, are read where they lie."""
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(season / "labels.json", source)
    pipeline = replace(season_pipeline(str(source)), images=pack(season, source))
    convert(pipeline, tmp_path / "out")
    assert files_below(tmp_path / "out") == files_below(converted)


def test_archives_in_a_bucket_give_the_bytes_of_a_folder(
    converted: Path, season: Path, tmp_path: Path, make_bucket: Callable[[str], str]
) -> None:
    """Zips in a real bucket are read by range requests, never unpacked."""
    bucket = Store(url=make_bucket("zips"))
    names = zipped(season, tmp_path)
    for name in names:
        bucket.upload(tmp_path / name, name)
    bucket.upload(season / "labels.json", "labels.json")
    convert(replace(season_pipeline(bucket.url), images=names), tmp_path / "out")
    assert files_below(tmp_path / "out") == files_below(converted)


def test_an_archive_of_other_photographs_is_refused(
    season: Path, tmp_path: Path, pipeline: SeasonPipeline
) -> None:
    """Archives that are missing, damaged or hold none of the photographs: one line says so."""
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("holiday/beach.jpg", b"x")
    (tmp_path / "damaged.zip").write_bytes((tmp_path / "other.zip").read_bytes()[:60])
    shutil.copy(season / "labels.json", tmp_path)
    for name, message in (
        ("other.zip", r"none of the \d+ photographs is in other\.zip.*holiday/beach\.jpg"),
        ("damaged.zip", r"damaged\.zip is damaged or incomplete"),
        ("absent.zip", "there is no archive"),
    ):
        with pytest.raises(CatalogError, match=message):
            convert(replace(pipeline, source=str(tmp_path), images=name), tmp_path / "out")


def test_the_number_of_threads_does_not_show(
    converted: Path, pipeline: SeasonPipeline, tmp_path: Path
) -> None:
    """One thread per task or seven: equal bytes."""
    for num_threads in (1, 7):
        runner = SerialRunner()
        runner.num_threads = num_threads
        convert_season(pipeline, runner, str(tmp_path / str(num_threads)))
        assert files_below(tmp_path / str(num_threads)) == files_below(converted)


def test_the_report_tells_where_time_went(pipeline: SeasonPipeline, tmp_path: Path) -> None:
    """Every stage is there, and took some time."""
    seconds = convert(pipeline, tmp_path / "out").seconds
    assert set(seconds) == {"fetch", "decode", "reduce", "encode", "tar", "hash", "upload"}
    assert all(value > 0 for value in seconds.values())


def test_the_same_shard_at_two_places_is_two_tasks(pipeline: SeasonPipeline) -> None:
    """Two drivers share a task on a cluster only when they write to the same place."""

    def task(url: str, fingerprint: str) -> ShardTask:
        output = ShardOutput(store=Store(url=url), resize=ResizeSettings(), fingerprint=fingerprint)
        return ShardTask(
            name="train-000000",
            split="train",
            row_group=0,
            plan=output.store,
            outputs=(output,),
            images=Store(url=pipeline.source),
            encoder="e",
        )

    assert task("here", "f").key == task("here", "f").key
    assert len({task(*of).key for of in (("here", "f"), ("there", "f"), ("here", "g"))}) == 3
