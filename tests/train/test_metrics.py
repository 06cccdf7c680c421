"""Scores against scikit-learn and hand-computed values."""

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss

from serengeti_etl.errors import ConfigError
from serengeti_etl.storage import Store
from serengeti_etl.train.metrics import MetricsFile, class_means, mean_binary_log_loss
from tests.predicted import images_of

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


def test_probabilities_of_another_shape_are_refused() -> None:
    """One row or one vector of class means fits all samples; one column does not."""
    targets = np.zeros((3, 2))
    scores = [
        mean_binary_log_loss(targets, np.full(shape, 0.5)) for shape in ((3, 2), (1, 2), (2,))
    ]
    assert scores == pytest.approx([np.log(2)] * 3)
    with pytest.raises(ConfigError, match=r"shape of probabilities_NC is \(3, 1\).*\(3, 2\)"):
        mean_binary_log_loss(targets, np.full((3, 1), 0.5))
    with pytest.raises(ConfigError, match="shape of probabilities_NC"):
        mean_binary_log_loss(targets[:, :1], np.full((3, 2), 0.5))


def test_what_is_no_probability_is_named() -> None:
    """NaN, values beyond 0 and 1, and shapes that do not agree, by image and category."""
    good = images_of("st", [[0, 1], [1, 0]], [[0.2, 1], [0, 0.5]])
    good.check(("empty", "zebra"))
    nan = images_of("st", [[0, 1], [1, 0]], [[0.2, 1], [0, np.nan]])
    with pytest.raises(ConfigError, match="probabilities_NC of i1, zebra is nan"):
        nan.check(("empty", "zebra"))
    beyond = images_of("st", [[0, 1], [2, 0]], [[0.2, 1], [0, 0.5]])
    with pytest.raises(ConfigError, match="targets_NC of i1, empty is 2"):
        beyond.check(("empty", "zebra"))
    with pytest.raises(ConfigError, match=r"shape of targets_NC is \(2, 2\)"):
        good.check(("empty", "zebra", "lion"))


def test_class_means_are_never_certain() -> None:
    """Half a sample each way keeps an unseen class above 0 and a constant one below 1."""
    means = class_means(np.array([0, 5, 10]), 10)
    assert np.allclose(means, [0.5 / 11, 5.5 / 11, 10.5 / 11])


def test_records_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """Records after the checkpoint are forgotten on resume."""
    store = Store(url=str(tmp_path))
    metrics = MetricsFile(store)
    metrics.records += [{"step": step} for step in range(5)]
    metrics.write()
    resumed = MetricsFile(store)
    resumed.restore(3)
    assert [record["step"] for record in resumed.records] == [0, 1, 2]
