"""The judgement of a run."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score, log_loss, precision_score, recall_score

from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate import evaluate_run, judge
from serengeti_etl.train.loop import train
from serengeti_etl.train.metrics import Predictions
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import TrainSettings
from tests.dataset_factory import make_dataset


def test_the_table_of_classes_equals_scikit_learns() -> None:
    """Support, log loss, average precision, precision and recall of every class, to 1e-12."""
    rng = np.random.default_rng(1)
    targets, probabilities = (rng.random((80, 4)) < 0.3).astype(float), rng.random((80, 4))
    targets[:, 3] = 0
    probabilities[:, 3] *= 0.4
    names = tuple(map(str, range(80)))
    made = Predictions(
        names=names, seq_ids=names, targets_NC=targets, probabilities_NC=probabilities
    )
    means = np.array([0.3, 0.2, 0.4, 0.1])
    evaluation = judge(made, made, ("a", "b", "c", "d"), means, "val")
    losses = [log_loss(targets[:, c], probabilities[:, c], labels=[0, 1]) for c in range(4)]
    assert abs(evaluation.score - np.mean(losses)) < 1e-12
    for c, row in enumerate(evaluation.classes[:3]):
        shown, predicted = targets[:, c], probabilities[:, c] >= 0.5
        assert row.support == shown.sum()
        assert abs(row.log_loss - losses[c]) < 1e-12
        baseline = log_loss(shown, np.full(80, means[c]), labels=[0, 1])
        assert abs(row.class_means_log_loss - baseline) < 1e-12
        expected = average_precision_score(shown, probabilities[:, c])
        assert row.average_precision == pytest.approx(expected, abs=1e-12)
        assert row.precision == pytest.approx(precision_score(shown, predicted))
        assert row.recall == pytest.approx(recall_score(shown, predicted))
    absent = evaluation.classes[3]
    assert (absent.support, absent.average_precision) == (0, None)
    assert (absent.precision, absent.recall) == (None, None)


def test_a_real_resnet_is_trained_and_judged(tmp_path: Path) -> None:
    """ResNet18 for one short epoch: the evaluation agrees with the run's own validation."""
    dataset = make_dataset(str(tmp_path / "dataset"))
    stage = Stage(name="all", epochs=1, image_size=(32, 32), batch_size=9)
    recipe = Recipe(model="resnet18", stages=(stage,))
    run, settings = str(tmp_path / "run"), TrainSettings(device="cpu", num_threads=1)
    with pytest.raises(ConfigError, match="has not finished"):
        evaluate_run(run, dataset.store.url, settings=settings)
    result = train(dataset.store.url, run, recipe, settings=settings)
    evaluation = evaluate_run(run, dataset.store.url, settings=settings)
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
