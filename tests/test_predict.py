"""Predictions of new photographs: those of the shards, failures counted, memory bounded."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline
from serengeti_etl.convert.resize import ResizedImage, encoder_version, resize_jpeg
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import ConfigError, ImageError
from serengeti_etl.evaluate.run import evaluate_run
from serengeti_etl.label_config import Rules
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING
from serengeti_etl.predict import run as run_module
from serengeti_etl.predict import scores
from serengeti_etl.predict.photographs import Source
from serengeti_etl.predict.read_model import read_model
from serengeti_etl.predict.run import predict_photographs
from serengeti_etl.predict.scores import Content, predict_contents
from serengeti_etl.predict.served import ModelConfig, ServedModel
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.storage import Store
from serengeti_etl.train.calibration import prior_shift
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.metrics import Predictions, aggregate_sequences, class_means
from serengeti_etl.train.model import predict
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import TrainSettings
from tests.hosts import wait_for
from tests.model_factory import write_model
from tests.train import tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # more of them only wait for each other on images so small


@pytest.fixture(scope="module")
def dataset(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The drawn season, converted. Read only."""
    output = tmp_path_factory.mktemp("predict") / "dataset"
    convert_season(pipeline, SerialRunner(), str(output))
    return open_dataset(str(output))


@pytest.fixture(scope="module")
def run(
    dataset: Dataset, pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A run with a random model of this dataset. Read only."""
    return write_model(tmp_path_factory.mktemp("run"), dataset.classes, pipeline.resize)


@pytest.fixture(scope="module")
def photographs(dataset: Dataset, season: Path) -> Source:
    """The photographs of the season, listed by the dataset's catalog."""
    return Source(url=f"{dataset.store.url}/catalog.parquet", folder=str(season / "images"))


def of_shards(dataset: Dataset, run: str) -> Predictions:
    """What training's own code says of the shards' images, in both splits."""
    model = read_model(run, CPU)
    settings = LoaderSettings(image_size=model.config.image_size, num_threads=1).for_evaluation()
    found = []
    for split in dataset.splits:
        with ShardLoader(dataset, split=split, batch_size=5, settings=settings) as loader:
            found.append(predict(model.network, loader))
    return Predictions(
        names=tuple(name for one in found for name in one.names),
        seq_ids=tuple(name for one in found for name in one.seq_ids),
        targets_NC=np.concatenate([one.targets_NC for one in found]),
        probabilities_NC=np.concatenate([one.probabilities_NC for one in found]),
    )


def file_names(dataset: Dataset) -> dict[str, str]:
    """File name of each image by its id."""
    catalog = pq.read_table(f"{dataset.store.url}/catalog.parquet")
    return dict(zip(catalog["image_id"].to_pylist(), catalog["file_name"].to_pylist(), strict=True))


def rejects(dataset: Dataset) -> dict[str, str]:
    """Reason of each photograph that conversion refused, by its file name."""
    tables = [pq.read_table(path) for path in Path(dataset.store.url).glob("rejects/*.parquet")]
    rows = pa.concat_tables(tables).to_pylist()
    return {row["file_name"]: row["reason"] for row in rows if row["state"] == "rejected"}


def matrix(table: pa.Table, classes: tuple[str, ...]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """The columns of probabilities, NaN for null."""
    return np.column_stack([table[name].to_numpy() for name in classes])


def predicted(run: str, photographs: Source, folder: Path) -> pa.Table:
    """The table of photographs."""
    settings = PredictSettings(output=f"{folder}/images.parquet", batch_size=7, device="cpu")
    predict_photographs(run, photographs, settings)
    return pq.read_table(folder / "images.parquet")


def test_photographs_are_predicted_as_their_shards_are(
    dataset: Dataset, run: str, photographs: Source, tmp_path: Path
) -> None:
    """Originals give the probabilities of the shards' JPEGs, to 1e-6, and the same rejects."""
    table = predicted(run, photographs, tmp_path)
    expected, names = of_shards(dataset, run), file_names(dataset)
    at = {name: row for row, name in enumerate(table["file"].to_pylist())}
    rows = [at[names[image_id]] for image_id in expected.names]
    found = matrix(table, dataset.classes)[rows]
    assert len(rows) > 30
    assert np.abs(found - expected.probabilities_NC).max() < 1e-6
    # The comparison means something: photographs differ from each other by much more.
    assert expected.probabilities_NC.std(axis=0).min() > 1e-3
    failures = table["failure"].to_pylist()
    rejected = rejects(dataset)
    assert len(rejected) == 3
    for name, reason in rejected.items():
        assert failures[at[name]].startswith(f"{reason}: ")


@pytest.fixture(scope="module")
def thinned(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The drawn season with few blanks in train. Read only."""
    output = tmp_path_factory.mktemp("thinned") / "dataset"
    few = dataclasses.replace(pipeline, rules=Rules(max_empty_share=0.15))
    convert_season(few, SerialRunner(), str(output))
    return open_dataset(str(output))


def test_a_thinned_empty_is_put_right_as_in_evaluation(
    thinned: Dataset, pipeline: SeasonPipeline, season: Path, tmp_path: Path
) -> None:
    """Of a dataset with few blanks: what ``evaluate`` writes of its images, to 1e-6."""
    dataset = thinned
    shift = prior_shift(dataset.info.priors)
    assert shift > 0.3
    run = write_model(tmp_path / "run", dataset.classes, pipeline.resize, shift)
    evaluate_run(run, dataset.store.url, settings=TrainSettings(device="cpu", num_threads=1))
    expected = pq.read_table(tmp_path / "run" / "predictions-images.parquet")
    catalog = Source(url=f"{dataset.store.url}/catalog.parquet", folder=str(season / "images"))
    found = predicted(run, catalog, tmp_path)
    names, at = (
        file_names(dataset),
        {name: row for row, name in enumerate(found["file"].to_pylist())},
    )
    rows = [at[names[image_id]] for image_id in expected["image_id"].to_pylist()]
    both = (matrix(found, dataset.classes)[rows], matrix(expected, dataset.classes))
    assert np.abs(both[0] - both[1]).max() < 1e-6


def test_another_jpeg_step_gives_other_probabilities(
    dataset: Dataset,
    run: str,
    photographs: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The comparison above notices when the JPEG of the shards is left out."""

    def nearly_without(photograph: bytes, settings: ResizeSettings) -> ResizedImage:
        best = dataclasses.replace(settings, quality=100, subsampling="4:4:4")
        return resize_jpeg(photograph, best)

    monkeypatch.setattr(scores, "resize_jpeg", nearly_without)
    table = predicted(run, photographs, tmp_path)
    expected, names = of_shards(dataset, run), file_names(dataset)
    at = {name: row for row, name in enumerate(table["file"].to_pylist())}
    found = matrix(table, dataset.classes)[[at[names[one]] for one in expected.names]]
    assert np.abs(found - expected.probabilities_NC).max() > 1e-4


def test_a_folder_is_predicted_like_a_list(
    dataset: Dataset, run: str, photographs: Source, season: Path, tmp_path: Path
) -> None:
    """Without a list, every photograph below the folder comes out the same."""
    listed = predicted(run, photographs, tmp_path)
    found = predicted(run, Source(url=str(season / "images")), tmp_path)
    rows = zip(listed["file"].to_pylist(), matrix(listed, dataset.classes), strict=True)
    by_name = dict(rows)
    num_equal = 0
    for name, row in zip(found["file"].to_pylist(), matrix(found, dataset.classes), strict=True):
        if name in by_name:
            assert np.allclose(row, by_name[name], atol=1e-6, equal_nan=True)
            num_equal += 1
    assert num_equal > 30


def test_sequences_are_aggregated_as_they_are_scored(
    dataset: Dataset, run: str, photographs: Source, tmp_path: Path
) -> None:
    """The table of sequences is what ``train.metrics`` makes of the readable frames."""
    settings = PredictSettings(
        output=f"{tmp_path}/images.parquet", sequences=f"{tmp_path}/sequences.parquet", device="cpu"
    )
    predict_photographs(run, photographs, settings)
    table = pq.read_table(tmp_path / "sequences.parquet")
    images = of_shards(dataset, run)
    expected = aggregate_sequences(images, dataset.class_index["empty"])
    at = {name: row for row, name in enumerate(table["seq_id"].to_pylist())}
    assert len(at) == table.num_rows
    found = matrix(table, dataset.classes)[[at[name] for name in expected.names]]
    assert np.abs(found - expected.probabilities_NC).max() < 1e-6
    all_images = pq.read_table(tmp_path / "images.parquet")
    assert sum(table["num_images"].to_pylist()) == all_images.num_rows
    assert sum(table["num_failed"].to_pylist()) == len(all_images["failure"].drop_null())
    assert table["category"].null_count == sum(
        one == two
        for one, two in zip(
            *table.select(["num_images", "num_failed"]).to_pydict().values(), strict=True
        )
    )


def test_an_outage_is_no_bad_photograph(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails half-way ends the prediction, and no file is there."""

    def failing(*_: object) -> Iterator[Content]:
        yield from [ImageError("missing", "there is no file")] * 600
        raise ConnectionResetError("the store is away")

    monkeypatch.setattr(run_module, "fetch_in_order", failing)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{number}.jpg\n" for number in range(700)))
    settings = PredictSettings(output=f"{tmp_path}/out/images.csv", device="cpu")
    with pytest.raises(ConnectionResetError):
        predict_photographs(run, Source(url=str(names)), settings)
    assert list((tmp_path / "out").iterdir()) == []


def test_from_bucket_to_bucket_is_the_same(
    run: str, season: Path, tmp_path: Path, make_bucket: Callable[[str], str]
) -> None:
    """Photographs of a bucket prefix, predicted into a bucket: the bytes of the local table."""
    bucket = Store(url=make_bucket("predict"))
    paths = sorted((season / "images").rglob("*.JPG"))[:6]
    for path in paths:
        for place in (bucket, Store(url=str(tmp_path))):
            place.write(f"new/{path.name}", path.read_bytes())
    for url in (bucket.url, str(tmp_path)):
        settings = PredictSettings(output=f"{url}/images.csv", device="cpu")
        predict_photographs(run, Source(url=f"{url}/new"), settings)
    content = bucket.read("images.csv")
    assert content == (tmp_path / "images.csv").read_bytes()
    assert len(content.splitlines()) == len(paths) + 1


def test_a_killed_prediction_leaves_no_half_table(run: str, season: Path, tmp_path: Path) -> None:
    """After SIGKILL there is nothing under the final names."""
    source = tmp_path / "images"
    shutil.copytree(season / "images", source)
    names = sorted(str(path.relative_to(source)) for path in source.rglob("*.JPG"))
    os.mkfifo(source / "never.jpg")  # so that it is not done before it is killed
    (tmp_path / "list.txt").write_text("".join(f"{name}\n" for name in [*names, "never.jpg"]))
    command = [sys.executable, "-m", "serengeti_etl", "predict", run, "--device", "cpu"]
    command += ["--photographs", f"{tmp_path}/list.txt", "--source", str(source)]
    command += ["--output", f"{tmp_path}/images.csv"]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        wait_for(
            lambda: any(tmp_path.glob(".images.csv.*.partial")), "the first bytes", seconds=120
        )
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "images.csv").exists()


def test_no_more_than_two_batches_are_held() -> None:
    """Photographs are asked for as results are taken, and results come in order."""
    num_asked = 0

    def contents() -> Iterator[Content]:
        nonlocal num_asked
        for number in range(100):
            num_asked += 1
            yield ImageError("missing", str(number))

    config = ModelConfig(
        model="resnet18", classes=("empty",), image_size=(32, 32), resize=ResizeSettings()
    )
    model = cast("ServedModel", SimpleNamespace(config=config))
    for number, outcome in enumerate(predict_contents(model, contents(), batch_size=4)):
        assert isinstance(outcome, ImageError)
        assert outcome.message == str(number)
        assert num_asked - number <= 2 * 4
    assert number == 99


def test_a_training_leaves_all_that_prediction_needs(
    thinned: Dataset,
    pipeline: SeasonPipeline,
    season: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The settings of the resize, the means of sequences and the versions travel with the model."""
    tiny.install(monkeypatch)
    stage = Stage(name="all", epochs=1, image_size=(32, 40), batch_size=8)
    settings = TrainSettings(device="cpu", num_threads=1)
    train(
        thinned.store.url,
        str(tmp_path / "run"),
        Recipe(model="resnet18", stages=(stage,)),
        settings=settings,
    )
    config = read_model(str(tmp_path / "run"), CPU).config
    assert config.resize == pipeline.resize
    assert config.versions["encoder"] == encoder_version()
    assert config.data["name"] == "drawn"
    shift = prior_shift(thinned.info.priors)
    assert config.empty_shift == pytest.approx(shift, abs=1e-12)
    at = thinned.class_index["empty"]
    images = read_images([thinned], "train", EVERYTHING).images
    seen_C = class_means(*images.sequence_counts())
    odds = config.sequence_means[at] / (1 - config.sequence_means[at])
    assert np.log(odds) == pytest.approx(np.log(seen_C[at] / (1 - seen_C[at])) + shift)
    for name in ("run", "run/checkpoints/best.pt"):
        settings_of = PredictSettings(output=f"{tmp_path}/images.csv", device="cpu")
        source = Source(url=str(season / "images"))
        assert predict_photographs(f"{tmp_path}/{name}", source, settings_of).num_done > 30


def test_a_model_that_does_not_know_its_resize_is_refused(run: str, tmp_path: Path) -> None:
    """A run of before the settings travelled with the model says what to do."""
    file = dataclasses.replace(ModelFile.read(Store(url=run)), resize={})
    file.write(Store(url=str(tmp_path)))
    with pytest.raises(ConfigError, match=r"does not say how .* were resized.* train it again"):
        read_model(str(tmp_path), CPU)


def test_settings_of_several_sizes_travel_too(run: str, tmp_path: Path) -> None:
    """``decode_sizes``, which decide pixels, come back from the model's config."""
    resize = ResizeSettings(size="96", decode_sizes=("128", "96"))
    file = dataclasses.replace(ModelFile.read(Store(url=run)), resize=resize.deciding())
    file.write(Store(url=str(tmp_path)))
    config = read_model(str(tmp_path), CPU).config
    assert config.resize == resize
    value = json.loads(json.dumps(config.to_json()))
    assert ModelConfig.from_json(value, "config.json") == config


def test_the_command_counts_failures(run: str, season: Path, tmp_path: Path) -> None:
    """``predict`` exits 2 with unreadable photographs, tells them, and writes all rows."""
    output = tmp_path / "images.csv"
    command = [sys.executable, "-m", "serengeti_etl", "predict", run, "--device", "cpu"]
    command += ["--photographs", str(season / "images"), "--output", str(output)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    shown = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert shown.returncode == 2, shown.stderr
    assert "truncated" in shown.stdout
    with output.open() as file:
        rows = list(csv.DictReader(file))
    failed = [row for row in rows if row["failure"]]
    assert failed
    assert all(row["category"] == "" for row in failed)
    assert len(rows) == len([one for one in (season / "images").rglob("*") if one.is_file()])
