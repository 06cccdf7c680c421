"""Sequences out of images, against values by hand and laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError
from serengeti_etl.train.sequences import (
    METHODS,
    Aggregation,
    Method,
    aggregate_sequences,
    first_frames,
)
from tests.predicted import images_of

shares = st.floats(0, 1)
methods = st.sampled_from(METHODS)


def test_sequences_are_aggregated_as_the_winner_did() -> None:
    """Mean for animals, geometric mean for empty; by hand: (0.2 + 0.8) / 2, sqrt(0.9 * 0.1)."""
    images = images_of("sts", [[0.0, 1], [1, 0], [0, 0]], [[0.9, 0.2], [0.7, 0.3], [0.1, 0.8]])
    sequences = aggregate_sequences(images, empty=0)
    assert sequences.names == sequences.seq_ids == ("s", "t")
    expected = [[np.sqrt(0.9 * 0.1), 0.5], [0.7, 0.3]]
    assert np.allclose(sequences.probabilities_NC, expected, rtol=0, atol=1e-15)
    assert sequences.targets_NC.tolist() == [[0, 1], [1, 0]]
    without = aggregate_sequences(images, empty=None)
    assert np.allclose(without.probabilities_NC[0], [0.5, 0.5])


def test_a_sequence_is_empty_only_if_all_its_frames_are() -> None:
    """And shows what any of them shows."""
    images = images_of("ssttu", [[1, 0], [0, 1], [1, 0], [1, 0], [0, 0]], np.full((5, 2), 0.5))
    assert aggregate_sequences(images, empty=0).targets_NC.tolist() == [[0, 1], [1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("method", "of_animals", "of_empty"),
    [
        ("mean", 0.5, 0.5),
        ("geometric", math.sqrt(0.2 * 0.8), math.sqrt(0.2 * 0.8)),
        ("max", 0.8, 0.2),
        ("noisy_or", 1 - 0.8 * 0.2, 0.2 * 0.8),
        ("logit_mean", 0.5, 0.5),
    ],
)
def test_each_method_by_hand(method: Method, of_animals: float, of_empty: float) -> None:
    """Frames of 0.2 and 0.8; what speaks for an animal speaks against empty."""
    images = images_of("ss", [[0, 0], [0, 0]], [[0.2, 0.2], [0.8, 0.8]])
    aggregation = Aggregation(animals=method, empty=method)
    made = aggregate_sequences(images, 1, aggregation=aggregation).probabilities_NC
    assert np.allclose(made, [[of_animals, of_empty]], rtol=0, atol=1e-15)


def test_the_mean_of_log_odds_by_hand() -> None:
    """0.5 and 0.9 have log odds 0 and ln 9; the mean of them, ln 3, is 0.75."""
    images = images_of("ss", [[0], [0]], [[0.5], [0.9]])
    aggregation = Aggregation(animals="logit_mean")
    made = aggregate_sequences(images, None, aggregation=aggregation).probabilities_NC
    assert abs(made[0, 0] - 0.75) < 1e-15


def test_small_probabilities_survive_many_witnesses() -> None:
    """Three frames of 1e-20 are 3e-20 by noisy-or, not 0."""
    images = images_of("sss", np.zeros((3, 1)), np.full((3, 1), 1e-20))
    aggregation = Aggregation(animals="noisy_or")
    made = aggregate_sequences(images, None, aggregation=aggregation).probabilities_NC
    assert made[0, 0] == pytest.approx(3e-20, rel=1e-9, abs=0)


def test_an_impossible_empty_stays_impossible() -> None:
    """A frame that is surely not empty makes the sequence's empty 0, not NaN."""
    images = images_of("ss", np.zeros((2, 1)), [[0.0], [1.0]])
    assert 0 <= aggregate_sequences(images, empty=0).probabilities_NC[0, 0] < 1e-100


def test_the_first_frame_of_each_sequence_is_found() -> None:
    """In the order of the sequences, however their frames are mixed."""
    assert first_frames(("b", "a", "b", "c", "a")).tolist() == [0, 1, 3]


def test_no_images_are_no_sequences() -> None:
    """Nothing in, nothing out."""
    made = aggregate_sequences(images_of("", np.zeros((0, 3)), np.zeros((0, 3))), 0)
    assert (made.names, made.probabilities_NC.shape) == ((), (0, 3))


def test_an_unknown_method_is_refused() -> None:
    """By the name of the setting, with those that there are."""
    with pytest.raises(ConfigError, match=r"aggregation of empty is 'median'.*noisy_or"):
        Aggregation(empty="median")  # type: ignore[arg-type]


@settings(deadline=None)
@given(p=st.lists(shares, min_size=2, max_size=2), animals=methods, empty=methods)
def test_one_frame_is_itself(p: list[float], animals: Method, empty: Method) -> None:
    """Whatever the method, a sequence of one frame has the frame's probabilities."""
    aggregation = Aggregation(animals=animals, empty=empty)
    made = aggregate_sequences(images_of("s", [[0, 0]], [p]), 0, aggregation=aggregation)
    assert np.allclose(made.probabilities_NC, [p], rtol=0, atol=2e-15)


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(shares, shares), min_size=1, max_size=6),
    animals=methods,
    empty=methods,
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_frames_does_not_matter(
    rows: list[tuple[float, float]], animals: Method, empty: Method, order: object
) -> None:
    """Nor do probabilities leave 0 to 1, or all but noisy-or the range of the frames."""
    aggregation = Aggregation(animals=animals, empty=empty)

    def made(of: list[tuple[float, float]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        images = images_of("s" * len(of), np.zeros((len(of), 2)), of)
        return aggregate_sequences(images, 0, aggregation=aggregation).probabilities_NC

    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    probabilities = made(rows)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert np.allclose(probabilities, made(shuffled), rtol=1e-9, atol=1e-14)
    if animals != "noisy_or":
        inside = np.clip(probabilities[0, 1], min(r[1] for r in rows), max(r[1] for r in rows))
        assert abs(inside - probabilities[0, 1]) < 2e-15
