"""Scores against scikit-learn and hand-computed values."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss

from serengeti_etl.storage import Store
from serengeti_etl.train.metrics import (
    MetricsFile,
    Predictions,
    aggregate_sequences,
    average_precision,
    class_means,
    mean_binary_log_loss,
)

PRIORS = Path(__file__).parents[3] / "shared/data/serengeti/hakuna_classes_54.csv"


def test_the_score_equals_scikit_learns_column_by_column() -> None:
    """Mean of scikit-learn's binary log losses of all columns, to 1e-12; all-0.5 is ln 2."""
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 54)) < 0.1).astype(float)
    probabilities = rng.random((200, 54)) ** 3
    columns = range(54)
    expected = [log_loss(targets[:, c], probabilities[:, c], labels=[0, 1]) for c in columns]
    assert abs(mean_binary_log_loss(targets, probabilities) - np.mean(expected)) < 1e-12
    assert abs(mean_binary_log_loss(targets, np.full((200, 54), 0.5)) - np.log(2)) < 1e-12


def test_certain_errors_cost_the_clip_and_no_more() -> None:
    """A probability of 0 for what is there costs -log(1e-15), about 34.54; right ones nothing."""
    assert abs(mean_binary_log_loss(np.ones((1, 1)), np.zeros((1, 1))) - 34.538776) < 1e-5
    assert abs(mean_binary_log_loss(np.zeros((1, 1)), np.ones((1, 1))) - 34.538776) < 0.2
    assert mean_binary_log_loss(np.ones((1, 1)), np.ones((1, 1))) < 1e-14
    assert abs(mean_binary_log_loss(np.ones((1, 1)), np.zeros((1, 1)), 0.01) - 4.60517) < 1e-5


def test_the_competitions_class_means_score_as_published() -> None:
    """Predicting the 54 real class means scores 0.0320 in expectation."""
    if not PRIORS.is_file():
        pytest.skip(f"{PRIORS} is not on this machine")
    with PRIORS.open() as file:
        means = np.array([float(row["mean_label_from_3rd_place"]) for row in csv.DictReader(file)])
    assert len(means) == 54
    assert abs(mean_binary_log_loss(means[None], means[None]) - 0.0320) < 5e-5


def test_sequences_are_aggregated_as_the_winner_did() -> None:
    """Mean for animals, geometric mean for empty; by hand: (0.2 + 0.8) / 2, sqrt(0.9 * 0.1)."""
    images = Predictions(
        names=("a", "b", "c"),
        seq_ids=("s", "t", "s"),
        targets_NC=np.array([[0.0, 1], [1, 0], [0, 0]]),
        probabilities_NC=np.array([[0.9, 0.2], [0.7, 0.3], [0.1, 0.8]]),
    )
    sequences = aggregate_sequences(images, empty=0)
    assert sequences.names == ("s", "t")
    expected = [[np.sqrt(0.9 * 0.1), 0.5], [0.7, 0.3]]
    assert np.allclose(sequences.probabilities_NC, expected, atol=1e-15)
    assert sequences.targets_NC.tolist() == [[0, 1], [1, 0]]
    without = aggregate_sequences(images, empty=None)
    assert np.allclose(without.probabilities_NC[0], [0.5, 0.5])


def test_an_impossible_empty_stays_impossible() -> None:
    """A frame that is surely not empty makes the sequence's empty 0, not NaN."""
    images = Predictions(
        names=("a", "b"),
        seq_ids=("s", "s"),
        targets_NC=np.zeros((2, 1)),
        probabilities_NC=np.array([[0.0], [1.0]]),
    )
    assert 0 <= aggregate_sequences(images, empty=0).probabilities_NC[0, 0] < 1e-100


def test_class_means_are_never_certain() -> None:
    """Half a sample each way keeps an unseen class above 0 and a constant one below 1."""
    means = class_means(np.array([0, 5, 10]), 10)
    assert np.allclose(means, [0.5 / 11, 5.5 / 11, 10.5 / 11])


@given(data=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=1, max_size=40))
def test_average_precision_equals_scikit_learns(data: list[tuple[bool, int]]) -> None:
    """With ties and all, to 1e-12; None where nothing is positive."""
    targets = np.array([float(shown) for shown, _ in data])
    scores = np.array([score / 6 for _, score in data])
    got = average_precision(targets, scores)
    if targets.sum() == 0:
        assert got is None
    else:
        assert got is not None
        assert abs(got - average_precision_score(targets, scores)) < 1e-12


def test_records_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """Records after the checkpoint are forgotten on resume."""
    store = Store(url=str(tmp_path))
    metrics = MetricsFile(store)
    metrics.records += [{"step": step} for step in range(5)]
    metrics.write()
    resumed = MetricsFile(store)
    resumed.restore(3)
    assert [record["step"] for record in resumed.records] == [0, 1, 2]
