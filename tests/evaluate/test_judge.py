"""All figures of a split: by hand, against scikit-learn, and against controls."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
)

from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate.captures import Captures, PredictedSplit
from serengeti_etl.evaluate.classes import ClassResult, macro_f1
from serengeti_etl.evaluate.judge import Model, judge
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.train.metrics import class_means
from serengeti_etl.train.predictions import Predictions
from tests.predicted import CLASSES, Draw, images_of, predicted_split

SETTINGS = EvaluationSettings(num_resamples=20)


def split_of(images: Predictions, split: str = "val") -> PredictedSplit:
    """Images of one site, of unknown times."""
    nowhere = np.full(len(images.names), "A", dtype=np.object_)
    captures = Captures(
        sites_N=nowhere,
        seasons_N=nowhere,
        hours_N=np.full(len(images.names), -1),
        train_sites=frozenset(),
    )
    return PredictedSplit(split=split, images=images, captures=captures)


def drawn_model(split: PredictedSplit) -> Model:
    """A model that knows the split's own class means, the best there are."""
    targets = split.images.targets_NC[::3]
    counts = targets.sum(axis=0).astype(np.int64)
    return Model(classes=CLASSES, means_C=class_means(counts, len(targets)))


def test_a_small_split_by_hand() -> None:
    """Two sequences of two classes; every figure worked out on paper."""
    # Sequence s, zebra, of two frames; sequence t, empty, of one.
    images = images_of("sst", [[0, 1], [0, 1], [1, 0]], [[0.4, 0.5], [0.1, 0.9], [0.8, 0.4]])
    split = split_of(images)
    model = Model(classes=("empty", "zebra"), means_C=np.array([0.75, 0.5]))
    made = judge(split, split, model, SETTINGS)
    # s: empty sqrt(0.04) = 0.2, zebra 0.7. t: empty 0.8, zebra 0.4.
    losses = -np.log([0.8, 0.7, 0.8, 0.6])
    assert made.score == pytest.approx(losses.mean(), abs=1e-15)
    assert made.class_means_score == pytest.approx(
        -np.log([0.25, 0.5, 0.75, 0.5]).mean(), abs=1e-15
    )
    of_images = -np.log([0.6, 0.5, 0.9, 0.9, 0.8, 0.6])
    assert made.image_score == pytest.approx(of_images.mean(), abs=1e-15)
    assert (made.num_images, made.num_sequences, made.split) == (3, 2, "val")
    assert (made.macro_f1, made.empty_shift, made.clip) == (None, 0, 1e-15)
    empty, zebra = made.classes
    assert (empty.support, zebra.support) == (1, 1)
    assert zebra.mean_prediction == pytest.approx(0.55)
    assert zebra.log_loss == pytest.approx(-np.log([0.7, 0.6]).mean())
    assert zebra.class_means_log_loss == pytest.approx(np.log(2))
    assert (zebra.average_precision, zebra.precision, zebra.recall, zebra.f1) == (1, 1, 1, 1)
    assert zebra.threshold == pytest.approx(0.7)
    assert zebra.ece == pytest.approx((0.3 + 0.4) / 2)
    assert made.blanks is not None
    assert made.blanks.chosen.threshold == pytest.approx(0.8)
    assert (made.blanks.chosen.precision, made.blanks.chosen.missed) == (1, 0)
    assert made.confusions == ()


def test_the_table_of_classes_equals_scikit_learns() -> None:
    """Support, losses, average precision, precision, recall and F1 of every class, to 1e-12."""
    rng = np.random.default_rng(1)
    targets, p = (rng.random((80, 4)) < 0.3).astype(float), rng.random((80, 4))
    targets[:, 3] = 0
    p[:, 3] *= 0.4
    split = split_of(images_of([str(number) for number in range(80)], targets, p))
    means = np.array([0.3, 0.2, 0.4, 0.1])
    made = judge(split, split, Model(classes=("a", "b", "c", "d"), means_C=means), SETTINGS)
    losses = [log_loss(targets[:, c], p[:, c], labels=[0, 1]) for c in range(4)]
    assert abs(made.score - np.mean(losses)) < 1e-12
    for c, row in enumerate(made.classes[:3]):
        shown, predicted = targets[:, c], p[:, c] >= 0.5
        assert row.support == shown.sum()
        assert abs(row.log_loss - losses[c]) < 1e-12
        baseline = log_loss(shown, np.full(80, means[c]), labels=[0, 1])
        assert abs(row.class_means_log_loss - baseline) < 1e-12
        expected = average_precision_score(shown, p[:, c])
        assert row.average_precision == pytest.approx(expected, abs=1e-12)
        assert row.precision == pytest.approx(precision_score(shown, predicted), abs=1e-12)
        assert row.recall == pytest.approx(recall_score(shown, predicted), abs=1e-12)
        at_threshold = f1_score(shown, p[:, c] >= row.threshold)
        assert row.f1 == pytest.approx(at_threshold, abs=1e-12)
    absent = made.classes[3]
    assert (absent.support, absent.average_precision, absent.threshold) == (0, None, 0.5)
    assert (absent.precision, absent.recall, absent.f1) == (None, None, None)
    assert made.blanks is None


def test_macro_f1_is_of_species_with_support() -> None:
    """19 sequences are too few, empty is no species, and a species never found counts as 0."""
    one = ClassResult(
        name="zebra",
        support=20,
        mean_prediction=0.1,
        log_loss=0.1,
        class_means_log_loss=0.1,
        average_precision=0.5,
        precision=None,
        recall=None,
        f1=0.5,
        threshold=0.5,
        ece=0.0,
    )
    rare, blank = replace(one, support=19, f1=0.9), replace(one, name="empty", f1=0.9)
    assert macro_f1((one, rare, blank)) == 0.5
    assert macro_f1((one, replace(one, f1=0.0))) == 0.25
    assert macro_f1((rare, blank)) is None


def test_thresholds_come_from_the_split_that_is_tuned_on() -> None:
    """Of F1 and of blanks; a given threshold of blanks is taken as it is."""
    judged, tuned = predicted_split(Draw(seed=1), "test"), predicted_split()
    model = drawn_model(judged)
    own, other = judge(tuned, tuned, model, SETTINGS), judge(judged, tuned, model, SETTINGS)
    assert [one.threshold for one in other.classes] == [one.threshold for one in own.classes]
    assert own.blanks is not None
    assert other.blanks is not None
    assert other.blanks.chosen.threshold == own.blanks.chosen.threshold
    assert (own.blanks.chosen.missed or 0) <= 0.01
    given = judge(judged, tuned, model, replace(SETTINGS, blank_threshold=0.3)).blanks
    assert given is not None
    assert given.chosen.threshold == 0.3
    assert other.tuning is not None
    assert own.tuning is not None
    assert (other.tuning.is_judged_split, own.tuning.is_judged_split) == (False, True)


def test_without_a_split_to_tune_on_nothing_is_tuned() -> None:
    """Thresholds are 0.5, but for the one that is given; the score is what it was."""
    split = predicted_split()
    model = drawn_model(split)
    made = judge(split, None, model, SETTINGS)
    assert {one.threshold for one in made.classes} == {0.5}
    assert made.blanks is not None
    assert (made.tuning, made.blanks.chosen.threshold) == (None, 0.5)
    assert made.score == judge(split, split, model, SETTINGS).score
    given = judge(split, None, model, replace(SETTINGS, blank_threshold=0.9)).blanks
    assert given is not None
    assert given.chosen.threshold == 0.9


def test_the_parts_agree_with_the_whole() -> None:
    """Score, macro-F1 and missed animals are the same wherever they are told."""
    split = predicted_split(Draw(num_sequences=600))
    made = judge(split, split, drawn_model(split), SETTINGS)
    everything = made.groups[0]
    assert everything.score.value == pytest.approx(made.score, abs=1e-12)
    assert everything.class_means_score.value == pytest.approx(made.class_means_score, abs=1e-12)
    assert made.macro_f1 is not None
    assert everything.macro_f1.value == pytest.approx(made.macro_f1, abs=1e-12)
    assert made.blanks is not None
    assert everything.missed.value == pytest.approx(made.blanks.chosen.missed, abs=1e-12)
    assert sum(one.num_sequences for one in made.sites) == made.num_sequences == 600
    assert {name: one.ece for name, one in made.class_reliability.items()} == {
        one.name: one.ece for one in made.classes
    }


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_shuffled_labels_get_no_better_than_class_means(strength: float) -> None:
    """Nor does tuning on one half of the sites find anything that holds on the other."""
    split = predicted_split(Draw(num_sequences=1200, strength=strength))
    order = np.random.default_rng(0).permutation(1200)
    targets = split.images.targets_NC.reshape(1200, 3, 4)[order].reshape(3600, 4)
    shuffled = replace(split, images=replace(split.images, targets_NC=targets))
    made = judge(shuffled, shuffled, drawn_model(shuffled), SETTINGS)
    assert made.score > made.class_means_score
    assert made.tuning is not None
    assert made.tuning.cross_score is not None
    assert made.tuning.cross_score > made.class_means_score
    for one in made.classes:
        assert one.average_precision is not None
        assert abs(one.average_precision - one.support / 1200) < 0.06
    if strength == 3:
        honest = judge(split, split, drawn_model(split), SETTINGS)
        assert honest.score < 0.5 * honest.class_means_score
        assert honest.groups[0].skill.value == pytest.approx(
            1 - honest.score / honest.class_means_score
        )


def test_what_is_no_prediction_is_refused() -> None:
    """NaN by image and category, columns that are no classes, and a split without images."""
    split = predicted_split()
    model = drawn_model(split)
    split.images.probabilities_NC[4, 3] = np.nan
    with pytest.raises(ConfigError, match="probabilities_NC of i4, zebra is nan"):
        judge(predicted_split(), split, model, SETTINGS)
    with pytest.raises(ConfigError, match="shape of targets_NC"):
        judge(predicted_split(), predicted_split(), replace(model, classes=("a", "b")), SETTINGS)
    nothing = predicted_split().take(np.zeros(720, dtype=bool))
    with pytest.raises(ConfigError, match="images of split val is 0"):
        judge(nothing, nothing, model, SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"blank_threshold": 1.5},
        {"max_missed": -0.1},
        {"day_hours": (19, 7)},
        {"num_resamples": 0},
        {"seed": -1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    """By name."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        EvaluationSettings(**wrong)  # type: ignore[arg-type]
