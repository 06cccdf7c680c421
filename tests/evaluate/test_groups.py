"""Parts of a split, sites, and intervals by resampled sites."""

from dataclasses import replace

import numpy as np
import pytest

from serengeti_etl.evaluate.captures import Captures
from serengeti_etl.evaluate.curves import f1
from serengeti_etl.evaluate.groups import (
    Decisions,
    GroupResult,
    group_results,
    resampled_sites,
    site_results,
)
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.train.metrics import mean_binary_log_loss
from serengeti_etl.train.predictions import Flags, Predictions
from serengeti_etl.train.sequences import aggregate_sequences, first_frames
from tests.predicted import Draw, images_of, predicted_split

SETTINGS = EvaluationSettings(num_resamples=200)
DECISIONS = Decisions(
    means_C=np.array([0.5, 0.2, 0.15, 0.15]),
    thresholds_C=np.full(4, 0.4),
    empty=0,
    blank_threshold=0.6,
)


def drawn(draw: Draw | None = None) -> tuple[Predictions, Captures]:
    split = predicted_split(draw)
    captures = split.captures.take(first_frames(split.images.seq_ids))
    return aggregate_sequences(split.images, 0), captures


def check_part(one: GroupResult, made: Predictions, captures: Captures, mask: Flags) -> None:
    """That a part's figures are those of its sequences alone."""
    targets, p = made.targets_NC[mask], made.probabilities_NC[mask]
    assert one.num_sequences == mask.sum()
    assert one.num_sites == len(set(captures.sites_N[mask].tolist()))
    baseline = mean_binary_log_loss(targets, DECISIONS.means_C)
    score = mean_binary_log_loss(targets, p)
    assert one.score.value == pytest.approx(score, abs=1e-12)
    assert one.class_means_score.value == pytest.approx(baseline, abs=1e-12)
    assert one.skill.value == pytest.approx(1 - score / baseline, abs=1e-12)
    right = targets[np.arange(len(p)), p.argmax(axis=1)]
    assert one.top1.value == pytest.approx(right.mean())
    animals = targets[:, 0] == 0
    assert one.missed.value == pytest.approx((p[animals, 0] >= 0.6).mean())
    scores = [f1(targets[:, c], p[:, c] >= 0.4) for c in (1, 2, 3) if targets[:, c].sum() >= 20]
    expected = np.mean([score or 0 for score in scores]) if scores else None
    assert one.macro_f1.value == pytest.approx(expected)


def test_every_part_is_what_its_sequences_alone_would_be() -> None:
    """All; day and night by the hour; sites seen in train and unseen; no season, there is one."""
    made, captures = drawn(Draw(num_sequences=600))
    hours = captures.hours_N.copy()
    hours[:9] = -1
    captures = replace(captures, hours_N=hours)
    is_day = (hours >= 7) & (hours < 19)
    is_seen = np.isin(captures.sites_N.astype(str), ["site0", "site1"])
    expected = {
        "all": np.ones(600, dtype=bool),
        "day": is_day,
        "night": ~is_day & (hours >= 0),
        "unknown": hours < 0,
        "seen": is_seen,
        "unseen": ~is_seen,
    }
    results = group_results(made, captures, DECISIONS, SETTINGS)
    assert [one.name for one in results] == list(expected)
    for one in results:
        check_part(one, made, captures, expected[one.name])


def test_the_hours_of_the_day_can_be_set() -> None:
    """The first hour belongs to the day, the last one to the night."""
    made, captures = drawn()
    captures = replace(captures, hours_N=np.arange(240) % 24)
    settings = EvaluationSettings(day_hours=(5, 21), num_resamples=2)
    numbers = {
        one.name: one.num_sequences for one in group_results(made, captures, DECISIONS, settings)
    }
    assert (numbers["day"], numbers["night"]) == (160, 80)


def test_each_site_is_what_its_sequences_alone_would_be() -> None:
    """By name, and said whether the model was trained on it."""
    made, captures = drawn()
    results = site_results(made, captures, DECISIONS)
    assert [one.site for one in results] == [f"site{number}" for number in range(8)]
    assert [one.is_seen for one in results] == [True, True, *[False] * 6]
    for one in results:
        mask = captures.sites_N == one.site
        assert one.num_sequences == mask.sum() == 30
        alone = mean_binary_log_loss(made.targets_NC[mask], made.probabilities_NC[mask])
        assert one.score == pytest.approx(alone, abs=1e-12)
        right = made.targets_NC[mask][np.arange(30), made.probabilities_NC[mask].argmax(axis=1)]
        assert one.top1 == pytest.approx(right.mean())


def test_an_interval_is_the_percentiles_of_resampled_sites() -> None:
    """As made by hand, site for site, of the sites' own sequences, drawn with replacement."""
    made, captures = drawn(Draw(num_sites=5))
    losses = [
        mean_binary_log_loss(made.targets_NC[mask], made.probabilities_NC[mask])
        for mask in (captures.sites_N == f"site{number}" for number in range(5))
    ]
    draws = resampled_sites(5, SETTINGS)
    assert draws.shape == (200, 5)
    assert (draws.sum(axis=1) == 5).all()
    low, high = np.percentile(draws @ np.array(losses) / 5, [2.5, 97.5])
    score = group_results(made, captures, DECISIONS, SETTINGS)[0].score
    assert score.low == pytest.approx(low)
    assert score.high == pytest.approx(high)
    assert score.low is not None
    assert score.high is not None
    assert score.value is not None
    assert score.low < score.value < score.high


def test_the_seed_decides_the_intervals_and_nothing_else() -> None:
    """The same seed gives the same, whatever the order of sequences; another one, others."""
    made, captures = drawn()
    first = group_results(made, captures, DECISIONS, SETTINGS)
    assert group_results(made, captures, DECISIONS, SETTINGS) == first
    order = np.random.default_rng(0).permutation(240)
    shuffled = images_of(
        [made.names[at] for at in order], made.targets_NC[order], made.probabilities_NC[order]
    )
    turned = group_results(shuffled, captures.take(order), DECISIONS, SETTINGS)[0].score
    assert turned.low == pytest.approx(first[0].score.low, abs=1e-12)
    other = group_results(made, captures, DECISIONS, replace(SETTINGS, seed=1))
    assert other[0].score.value == first[0].score.value
    assert other[0].score.low != first[0].score.low


def test_one_site_has_no_interval() -> None:
    """There is nothing to resample, and no other place to speak of."""
    made, captures = drawn(Draw(num_sites=1))
    (everything, *_) = group_results(made, captures, DECISIONS, SETTINGS)
    assert everything.score.value is not None
    assert (everything.score.low, everything.score.high) == (None, None)


def test_sequences_that_show_no_class_do_not_count_as_wrong() -> None:
    """Nor has what has no meaning a value: nobody labelled them, and nothing is an animal's."""
    made, captures = drawn()
    nothing = images_of(made.names, np.zeros((240, 4)), made.probabilities_NC)
    one = group_results(nothing, captures, DECISIONS, SETTINGS)[0]
    assert one.top1.value is None
    assert one.macro_f1.value is None
    empties = images_of(made.names, np.eye(4)[np.zeros(240, dtype=int)], made.probabilities_NC)
    assert group_results(empties, captures, DECISIONS, SETTINGS)[0].missed.value is None
