"""Fewer blanks in training: what the model is to believe then, and how it is put right."""

import numpy as np

from serengeti_etl.load.selection import Selection
from serengeti_etl.train.metrics import Float64
from serengeti_etl.train.thinning import kept_share, restore_blanks, selection_of, thinned_means

# Six kinds of photograph, which show (empty, zebra, lion), and how many there are of each kind.
KINDS_KC = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]])
COUNTS_K = np.array([700, 200, 80, 20])


def shares(counts_K: Float64) -> Float64:
    """Share of the photographs that show each class."""
    return np.asarray(counts_K @ KINDS_KC / counts_K.sum())


def test_putting_right_is_exact() -> None:
    """Of counts with a quarter of the blanks, the shares of all photographs come back."""
    thinned = shares(COUNTS_K * np.array([0.25, 1, 1, 1]))
    restored = restore_blanks(thinned[None], 0, 0.25)[0]
    assert np.abs(restored - shares(COUNTS_K.astype(float))).max() < 1e-12


def test_the_blank_s_logit_is_shifted_by_the_logarithm_of_its_weight() -> None:
    """The known rule for one class: logit minus log of the weight."""
    probabilities_NC = np.array([[0.3, 0.1], [0.9, 0.2]])
    restored = restore_blanks(probabilities_NC, 0, 0.5)[:, 0]
    before = np.log(probabilities_NC[:, 0] / (1 - probabilities_NC[:, 0]))
    assert np.allclose(np.log(restored / (1 - restored)), before - np.log(0.5))


def test_without_thinning_nothing_changes() -> None:
    """A weight of 1, or no class of blanks, gives back what went in."""
    probabilities_NC = np.array([[0.3, 0.1]])
    assert restore_blanks(probabilities_NC, 0, 1.0) is probabilities_NC
    assert restore_blanks(probabilities_NC, None, 0.5) is probabilities_NC
    assert selection_of(1.0) is None
    assert selection_of(0.5) == Selection(weights={"empty": 0.5})


def test_a_dataset_tells_how_many_blanks_it_lost() -> None:
    """From shares before and after: the part of the blanks that is left; 1 if nothing is said."""
    priors = {"before": {"shares": {"empty": 0.7}}, "after": {"shares": {"empty": 350 / 650}}}
    assert abs(kept_share(priors) - 0.5) < 1e-12
    assert kept_share({}) == 1.0
    assert kept_share({"before": {"shares": {}}, "after": {"shares": {}}}) == 1.0


def test_the_head_starts_at_what_training_sees() -> None:
    """Class means of thinned counts, with half a photograph for and against each class."""
    counts_C = COUNTS_K @ KINDS_KC
    means_C = thinned_means(counts_C, 1000, 0, 0.5)
    assert np.allclose(means_C, (np.array([350, 220, 100]) + 0.5) / 651)
    assert np.allclose(thinned_means(counts_C, 1000, None, 0.5), (counts_C + 0.5) / 1001)
