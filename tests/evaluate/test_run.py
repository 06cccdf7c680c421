"""A run is predicted, judged, and the figures are written into it."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError, DatasetError, OutputHeld
from serengeti_etl.evaluate.run import evaluate_run
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.lease import Lease, hold
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.predictions import logits
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import TrainSettings
from tests.conftest import files_below
from tests.dataset_factory import make_dataset
from tests.train import tiny

SETTINGS = TrainSettings(device="cpu", num_threads=1)


@pytest.fixture
def network() -> Iterator[None]:
    """The tiny network in the place of ResNet18."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.install(patch)
        yield


def test_a_real_resnet_is_trained_and_judged(tmp_path: Path) -> None:
    """ResNet18 for one short epoch: the evaluation agrees with the run's own validation."""
    dataset = make_dataset(str(tmp_path / "dataset"))
    stage = Stage(name="all", epochs=1, image_size=(32, 32), batch_size=9)
    recipe = Recipe(model="resnet18", stages=(stage,))
    run = str(tmp_path / "run")
    with pytest.raises(ConfigError, match="has not finished"):
        evaluate_run(run, dataset.store.url, settings=SETTINGS)
    result = train(dataset.store.url, run, recipe, settings=SETTINGS)
    evaluation = evaluate_run(run, dataset.store.url, settings=SETTINGS)
    assert evaluation.score == pytest.approx(result.score, abs=1e-5)
    assert evaluation.class_means_score == pytest.approx(result.class_means_score, abs=1e-12)
    assert (evaluation.num_images, evaluation.num_sequences) == (9, 5)
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert written["score"] == evaluation.score
    assert [row["name"] for row in written["classes"]] == list(dataset.classes)
    images = pq.read_table(tmp_path / "run" / "predictions-images.parquet")
    assert images["image_id"].to_pylist() == dataset.index("val")["image_id"].to_pylist()
    sequences = pq.read_table(tmp_path / "run" / "predictions-sequences.parquet")
    assert sequences.column_names == ["seq_id", *dataset.classes]
    assert sequences.num_rows == 5


def column(run: Path, name: str) -> np.ndarray:
    table = pq.read_table(run / "predictions-images.parquet")
    return np.array(table[name].to_pylist())


def written(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "evaluation.json").read_text()))


def test_the_split_and_what_it_is_tuned_on_are_told(tmp_path: Path, network: None) -> None:  # noqa: ARG001
    """Train is tuned on val, val on itself, nothing on what is not there; mirrors are predicted."""
    dataset = make_dataset(str(tmp_path / "dataset"))
    run = tmp_path / "run"
    train(dataset.store.url, str(run), tiny.RECIPE, settings=SETTINGS)
    made = evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    assert made.tuning is not None
    assert (made.tuning.tuned_on, made.tuning.is_judged_split) == ("val", True)
    assert (run / "predictions-tuned.parquet").exists()
    plain = column(run, "zebra")
    mirrored = EvaluationSettings(with_mirror=True)
    evaluate_run(str(run), dataset.store.url, settings=SETTINGS, evaluation=mirrored)
    assert not np.allclose(plain, column(run, "zebra"), rtol=0, atol=1e-9)
    assert written(run)["with_mirror"] is True
    made = evaluate_run(str(run), dataset.store.url, "train", settings=SETTINGS)
    assert (made.split, made.num_images) == ("train", 27)
    assert made.tuning is not None
    assert (made.tuning.tuned_on, made.tuning.is_judged_split) == ("val", False)
    assert [(one.site, one.is_seen) for one in made.sites] == [("train-site", True)]
    nowhere = EvaluationSettings(tune_on="test")
    made = evaluate_run(str(run), dataset.store.url, settings=SETTINGS, evaluation=nowhere)
    assert made.tuning is None
    assert not (run / "predictions-tuned.parquet").exists()
    with pytest.raises(DatasetError, match="has no split 'test', only"):
        evaluate_run(str(run), dataset.store.url, "test", settings=SETTINGS)


def test_two_evaluations_are_kept_apart(
    tmp_path: Path,
    network: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second is refused while the first works; one that was taken over writes nothing."""
    dataset = make_dataset(str(tmp_path / "dataset"))
    run = tmp_path / "run"
    train(dataset.store.url, str(run), tiny.RECIPE, settings=SETTINGS)
    with hold(Store(url=str(run))), pytest.raises(OutputHeld, match=f"{run} is being written"):
        evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    before = files_below(run)
    monkeypatch.setattr(Lease, "check", lost)
    with pytest.raises(OutputHeld, match="another's"):
        evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    assert files_below(run) == before
    monkeypatch.undo()
    tiny.install(monkeypatch)
    evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    assert files_below(run).keys() - before.keys() == {
        "evaluation.json",
        *(f"predictions-{name}.parquet" for name in ("images", "sequences", "tuned")),
    }


def lost(_: Lease) -> None:
    """What a lease says that another has taken over."""
    raise OutputHeld("another's")


def test_a_thinned_empty_is_put_right(tmp_path: Path, network: None) -> None:  # noqa: ARG001
    """Its log odds move by what was thinned away, and class means are those from before."""
    dataset = make_dataset(str(tmp_path / "dataset"))
    run = tmp_path / "run"
    train(dataset.store.url, str(run), tiny.RECIPE, settings=SETTINGS)
    plain = evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    before = column(run, "empty")
    num_sequences = 14
    shares = (0.8, 0.4)
    after = {"num_sequences": num_sequences, "shares": {"empty": shares[1]}}
    whole = {"num_sequences": 3 * num_sequences, "shares": {"empty": shares[0]}}
    priors = {"unit": "sequences of train", "before": whole, "after": after}
    replace(dataset.info, priors=priors).write(dataset.store)
    assert Dataset(dataset.store).info.priors == priors
    shift = float(np.log(4) + np.log(1.5))
    store = Store(url=str(run))
    replace(ModelFile.read(store), empty_shift=shift).write(store)
    made = evaluate_run(str(run), dataset.store.url, settings=SETTINGS)
    assert made.empty_shift == pytest.approx(shift)
    assert np.allclose(logits(column(run, "empty")), logits(before) + shift, rtol=0, atol=1e-9)
    # 28 empty sequences more than those that are in train.
    counts, total = read_images([dataset], "train", EVERYTHING).images.sequence_counts()
    empty = made.classes[0]
    share = (counts[0] + 28 + 0.5) / (total + 28 + 1)
    expected = -(empty.support * np.log(share) + (5 - empty.support) * np.log1p(-share)) / 5
    assert empty.class_means_log_loss == pytest.approx(expected, abs=1e-12)
    assert plain.empty_shift == 0
