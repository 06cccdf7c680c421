"""What evaluation tunes is what is served: by ``predict``, by a model folder, by a submission."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate import tuning
from serengeti_etl.evaluate.run import evaluate_run
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.predict.photographs import Source
from serengeti_etl.predict.run import predict_photographs
from serengeti_etl.predict.served import resize_settings
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.predict.tuned import read_to_serve
from serengeti_etl.storage import Store
from serengeti_etl.submit.model_folder import write_model_folder
from serengeti_etl.submit.package import write_submission
from serengeti_etl.train.calibration import fit_temperatures
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.sequences import WINNERS, Aggregation
from serengeti_etl.train.serving import PLAIN, Serving
from serengeti_etl.train.settings import TrainSettings
from tests.model_factory import write_model
from tests.predicted import images_of

CPU = torch.device("cpu")
MIRRORED = EvaluationSettings(with_mirror=True)
SHIFT = 0.3
"""As of a dataset whose blanks were thinned a little."""
CROP = 0.1
"""Of the bottom, which all of them must cut off alike."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def dataset(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The drawn season, converted. Read only."""
    output = tmp_path_factory.mktemp("tuned") / "dataset"
    convert_season(pipeline, SerialRunner(), str(output))
    return open_dataset(str(output))


@pytest.fixture(scope="module")
def photographs(dataset: Dataset, season: Path) -> Source:
    """The original photographs of all its sequences."""
    return Source(url=f"{dataset.store.url}/catalog.parquet", folder=str(season / "images"))


def evaluated(folder: Path, dataset: Dataset, settings: EvaluationSettings) -> str:
    """A run with a random model, tuned on val although that has few sequences of each category."""
    run = write_model(folder, dataset.classes, dataset_resize(dataset), SHIFT, CROP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "fit_temperatures", partial(fit_temperatures, min_support=2))
        where = TrainSettings(device="cpu", num_threads=1)
        evaluate_run(run, dataset.store.url, settings=where, evaluation=settings)
    return run


def dataset_resize(dataset: Dataset) -> ResizeSettings:
    """The settings of the resize that made the dataset."""
    return resize_settings(dataset.info.settings["resize"], "dataset.json")


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An evaluated run, tuned with mirror images. Read only."""
    return evaluated(tmp_path_factory.mktemp("run"), dataset, MIRRORED)


def of_sequences(table: pa.Table, seq_ids: list[str], classes: tuple[str, ...]) -> np.ndarray:
    """Probabilities of some sequences, in their order."""
    at = {name: row for row, name in enumerate(table["seq_id"].to_pylist())}
    return np.column_stack([table[name].to_numpy() for name in classes])[[at[s] for s in seq_ids]]


def tuned_rows(run: str) -> pa.Table:
    """Sequences of val as evaluation tuned them."""
    return pq.read_table(f"{run}/predictions-tuned.parquet")


def predicted(model: str, photographs: Source, folder: Path, **serving: Any) -> pa.Table:
    """The table of sequences."""
    settings = PredictSettings(
        output=f"{folder}/images.parquet",
        sequences=f"{folder}/sequences.parquet",
        device="cpu",
        **serving,
    )
    predict_photographs(model, photographs, settings)
    return pq.read_table(settings.sequences)


def test_tuned_predictions_are_those_of_the_evaluation(
    dataset: Dataset, run: str, photographs: Source, tmp_path: Path
) -> None:
    """Originals of val's sequences give what evaluation wrote to 1e-6, and untuned ones do not."""
    expected, classes = tuned_rows(run), dataset.classes
    seq_ids = expected["seq_id"].to_pylist()
    wanted_SC = of_sequences(expected, seq_ids, classes)
    serving = read_to_serve(run, CPU, is_tuned=True).config.serving
    # The comparison means something: all three are other than usual.
    assert serving.with_mirror
    assert serving.aggregation.animals != WINNERS.animals
    assert serving.aggregation.empty != WINNERS.empty
    assert sum(one != 1 for one in serving.temperatures) >= 2
    found = of_sequences(predicted(run, photographs, tmp_path, is_tuned=True), seq_ids, classes)
    assert len(seq_ids) > 5
    assert np.abs(found - wanted_SC).max() < 1e-6
    for other in ({}, {"with_mirror": True}):
        found = of_sequences(predicted(run, photographs, tmp_path, **other), seq_ids, classes)
        assert np.abs(found - wanted_SC).max() > 1e-3


def test_mirrored_predictions_are_those_of_the_evaluation(
    dataset: Dataset, run: str, photographs: Source, tmp_path: Path
) -> None:
    """Of photographs and of untempered sequences, to 1e-6; plain ones differ."""
    for name in ("images", "sequences"):
        expected = pq.read_table(f"{run}/predictions-{name}.parquet")
        seq_ids = sorted(set(expected["seq_id"].to_pylist()))
        wanted_SC = of_sequences(expected, seq_ids, dataset.classes)
        for serving, is_same in (({"with_mirror": True}, True), ({}, False)):
            predicted(run, photographs, tmp_path, **serving)
            found = pq.read_table(tmp_path / f"{name}.parquet")
            found = found.filter(pa.compute.is_valid(found["category"]))
            distance = np.abs(of_sequences(found, seq_ids, dataset.classes) - wanted_SC).max()
            # Of images: the last frame of each sequence, as both have them in the same order.
            assert (distance < 1e-6) == is_same


def test_a_model_folder_carries_the_tuning(
    dataset: Dataset, run: str, photographs: Source, tmp_path: Path
) -> None:
    """``export-model`` records it for those who ask, and serves plainly else."""
    write_model_folder(run, str(tmp_path / "model"))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["tuned"]["with_mirror"] is True
    assert len(config["tuned"]["temperatures"]) == len(dataset.classes)
    assert config["serving"] == dataclasses.asdict(PLAIN) | {"temperatures": []}
    assert "`predict --tuned` takes" in (tmp_path / "model" / "README.md").read_text()
    expected = tuned_rows(run)
    seq_ids = expected["seq_id"].to_pylist()
    model = str(tmp_path / "model")
    found = predicted(model, photographs, tmp_path, is_tuned=True)
    both = (of_sequences(one, seq_ids, dataset.classes) for one in (found, expected))
    assert np.abs(np.subtract(*both)).max() < 1e-6
    plain = predicted(model, photographs, tmp_path)
    assert plain.equals(predicted(run, photographs, tmp_path))


@pytest.mark.slow
def test_a_tuned_submission_says_what_evaluation_did(
    dataset: Dataset, run: str, season: Path, tmp_path: Path
) -> None:
    """Unzipped and run by itself over val's photographs it leaves the tuned sequences, to 1e-6."""
    expected = tuned_rows(run)
    seq_ids = sorted(expected["seq_id"].to_pylist())
    data = tmp_path / "runtime" / "data"
    data.mkdir(parents=True)
    catalog = pq.read_table(f"{dataset.store.url}/catalog.parquet").to_pylist()
    frames = [row for row in catalog if row["seq_id"] in set(seq_ids)]
    with (data / "test_metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seq_id", "file_name", "datetime"])
        for row in frames:
            name = row["file_name"].replace("/", "_")
            original = season / "images" / row["file_name"]
            if original.is_file():
                shutil.copy(original, data / name)
            writer.writerow([row["seq_id"], name, row["datetime"]])
    with (data / "submission_format.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seq_id", *dataset.classes])
        writer.writerows([[one, *[0.0] * len(dataset.classes)] for one in seq_ids])
    wanted_SC = of_sequences(expected, seq_ids, dataset.classes)
    for serving, is_same in (({"is_tuned": True}, True), ({"with_mirror": True}, False)):
        write_submission(run, str(tmp_path / "submission.zip"), **serving)
        with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
            archive.extractall(tmp_path / "runtime")
        subprocess.run(
            [sys.executable, "-I", "main.py"],
            check=True,
            capture_output=True,
            cwd=tmp_path / "runtime",
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
        )
        with (tmp_path / "runtime" / "submission.csv").open() as file:
            _, *rows = csv.reader(file)
        found_SC = np.array([[float(one) for one in row[1:]] for row in rows])
        assert [row[0] for row in rows] == seq_ids
        assert (np.abs(found_SC - wanted_SC).max() < 1e-6) == is_same


def test_a_run_that_was_not_evaluated_is_refused(run: str, tmp_path: Path) -> None:
    """Without evaluation, without a tuning, or with other weights: what is wrong and what to do."""
    store = Store(url=str(tmp_path / "run"))
    file = ModelFile.read(Store(url=run))
    file.write(store)
    with pytest.raises(ConfigError, match=r"has no evaluation\.json .* `serengeti-etl evaluate`"):
        read_to_serve(store.url, CPU, is_tuned=True)
    evaluation = Store(url=run).read_json("evaluation.json")
    store.write_json("evaluation.json", evaluation | {"tuning": None})
    with pytest.raises(ConfigError, match="tuned nothing, as there was no split for it"):
        read_to_serve(store.url, CPU, is_tuned=True)
    store.write_json("evaluation.json", evaluation | {"tuning": {"choice": {}}})
    with pytest.raises(ConfigError, match=r"is damaged, .* KeyError\('aggregation'\); run"):
        read_to_serve(store.url, CPU, is_tuned=True)
    for content in (b'{"tuning": {', b"[]", b"\xff"):
        store.write("evaluation.json", content)
        with pytest.raises(ConfigError, match=r"is damaged, .* run `serengeti-etl evaluate` again"):
            read_to_serve(store.url, CPU, is_tuned=True)
    store.write_json("evaluation.json", evaluation)
    weights = dict(file.state_dict)
    weights["fc.bias"] = weights["fc.bias"] + 1e-3
    dataclasses.replace(file, state_dict=weights).write(store, "checkpoints/best.pt")
    with pytest.raises(ConfigError, match="is of other weights, or of an older version"):
        read_to_serve(f"{store.url}/checkpoints/best.pt", CPU, is_tuned=True)
    # The best weights may be the last ones.
    file.write(store, "checkpoints/best.pt")
    served = read_to_serve(f"{store.url}/checkpoints/best.pt", CPU, is_tuned=True)
    assert served.config.serving == read_to_serve(run, CPU, is_tuned=True).config.serving
    old = {name: value for name, value in evaluation.items() if name != "weights_sha256"}
    store.write_json("evaluation.json", old)
    with pytest.raises(ConfigError, match="of an older version"):
        read_to_serve(store.url, CPU, is_tuned=True)


def test_temperatures_go_by_name(run: str, tmp_path: Path) -> None:
    """JSON is sorted, categories need not be: each gets its own temperature."""
    store, file = Store(url=str(tmp_path)), ModelFile.read(Store(url=run))
    classes = tuple(reversed(file.classes))
    dataclasses.replace(file, classes=classes).write(store)
    evaluation = Store(url=run).read_json("evaluation.json")
    evaluation["tuning"]["temperatures"] = {name: 1.0 + len(name) for name in classes}
    store.write_json("evaluation.json", evaluation)
    served = read_to_serve(store.url, CPU, is_tuned=True).config.serving
    assert served.temperatures == tuple(1.0 + len(name) for name in classes)


def test_mirror_images_are_as_they_were_tuned(dataset: Dataset, run: str, tmp_path: Path) -> None:
    """A tuning without them is not taken for predictions with them; one with them has them."""
    assert read_to_serve(run, CPU, is_tuned=True, with_mirror=True).config.serving.with_mirror
    plain = evaluated(tmp_path / "plain", dataset, EvaluationSettings())
    assert not read_to_serve(plain, CPU, is_tuned=True).config.serving.with_mirror
    with pytest.raises(ConfigError, match="was tuned without mirror images"):
        read_to_serve(plain, CPU, is_tuned=True, with_mirror=True)


def test_tuning_without_a_table_of_sequences_is_refused() -> None:
    """It would change nothing that is written."""
    with pytest.raises(ConfigError, match=r"sequences is None, .* it is sequences that are tuned"):
        PredictSettings(output="images.csv", is_tuned=True)


def test_sequences_are_aggregated_then_tempered() -> None:
    """By hand: largest of the frames for the animal, smallest for empty; log odds are divided."""
    images = images_of("aab", [[0, 1]] * 3, [[0.5, 0.8], [0.2, 0.1], [0.9, 0.5]])
    aggregation = Aggregation(animals="max", empty="max")
    made = Serving(aggregation=aggregation, temperatures=(0.5, 2.0)).sequences(images, 0)
    # Odds of empty 1/4 and 9, squared; of the animal 4 and 1, their roots.
    expected_SC = [[1 / 17, 2 / 3], [81 / 82, 1 / 2]]
    assert np.allclose(made.probabilities_NC, expected_SC, rtol=0, atol=1e-12)
    assert np.allclose(PLAIN.sequences(images, None).probabilities_NC[0], [0.35, 0.45])


def test_a_serving_that_makes_no_sense_is_refused(run: str) -> None:
    """Temperatures are positive, and as many as categories."""
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="positive numbers"):
            Serving(temperatures=(1.0, wrong))
    config = read_to_serve(run, CPU).config
    with pytest.raises(ConfigError, match="number of temperatures is 2"):
        dataclasses.replace(config, serving=Serving(temperatures=(1.0, 2.0)))
    made = Serving(aggregation=Aggregation(animals="max"), temperatures=(0.1, 1 / 3))
    assert Serving.from_json(json.loads(json.dumps(dataclasses.asdict(made)))) == made


@pytest.mark.slow
def test_the_commands_know_what_is_tuned(
    run: str, season: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """``predict --tuned`` and ``submit --tuned`` serve it; untuned runs are exit code 4."""

    def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
        whole = [sys.executable, "-m", "serengeti_etl", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            whole, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )

    catalog = f"{dataset.store.url}/catalog.parquet"
    given = ("--photographs", catalog, "--source", str(season / "images"), "--device", "cpu")
    outputs = ("--output", "images.csv", "--sequences", "sequences.parquet", "--tuned")
    shown = command("predict", run, *given, *outputs)
    assert shown.returncode == 2, shown.stderr
    expected = tuned_rows(run)
    seq_ids = expected["seq_id"].to_pylist()
    found = pq.read_table(tmp_path / "sequences.parquet")
    both = [of_sequences(one, seq_ids, dataset.classes) for one in (found, expected)]
    assert np.abs(both[0] - both[1]).max() < 1e-6
    shown = command("submit", run, "--tuned", "--mirror", "--output", "tuned.zip")
    assert shown.returncode == 0, shown.stderr
    with zipfile.ZipFile(tmp_path / "tuned.zip") as archive:
        config = json.loads(archive.read("config.json"))
    assert config["serving"]["temperatures"] == list(
        read_to_serve(run, CPU, is_tuned=True).config.serving.temperatures
    )
    (tmp_path / "bare").mkdir()
    shutil.copy(f"{run}/model.pt", tmp_path / "bare" / "model.pt")
    shown = command("submit", "bare", "--tuned", "--output", "tuned.zip")
    assert shown.returncode == 4
    assert "bare has no evaluation.json with a tuning" in shown.stderr
