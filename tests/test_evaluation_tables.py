"""What an evaluation shows: golden text, so that a change of it is seen and meant."""

from dataclasses import replace

import numpy as np

from serengeti_etl.evaluate.judge import Model, judge
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.evaluation_tables import evaluation_text
from tests.predicted import CLASSES, Draw, predicted_split

GOLDEN = """\
val: 120 sequences

  class             sequences   log loss   of class means     AP   precision   recall     F1
 ────────────────────────────────────────────────────────────────────────────────────────────
  empty                    53     0.4959           0.6931   0.96        1.00     0.28   0.92
  gazellegrants            22     0.2919           0.4773   0.96        1.00     0.50   0.89
  gazellethomsons          19     0.2634           0.4372   0.96        1.00     0.68   0.92
  zebra                    26     0.3433           0.5383   0.89        1.00     0.27   0.81

parts

  part                    sequences   sites    score    95 % by site   of class means   top 1
 ─────────────────────────────────────────────────────────────────────────────────────────────
  all                           120       4   0.3486   0.3397–0.3570           0.5365    0.92
  day                            64       4   0.3503   0.3239–0.3792           0.5447    0.92
  night                          56       4   0.3468   0.3367–0.3623           0.5271    0.91
  sites seen in train            60       2   0.3434   0.3411–0.3458           0.5199    0.92
  sites unseen in train          60       2   0.3538   0.3384–0.3693           0.5531    0.92

species most taken for others

  pair                       sequences   share
 ──────────────────────────────────────────────
  zebra as gazellegrants             3     12%
  zebra as gazellethomsons           1      4%

blanks (empty at 0.340 or more): 28.3% of sequences, 100.0% of them empty; animals lost: 0.0%
macro-F1 of species with 20 sequences or more: 0.85
score tuned on val itself, which flatters: 0.2931, by logit_mean (empty: logit_mean), temperatures
score tuned on other sites than scored: 0.3162
score (mean binary log loss, lower is better): 0.3486
score of predicting class means:               0.5365
"""


def test_an_evaluation_is_shown() -> None:
    """By class and by part, confusions and blanks, and two scores to compare."""
    split = predicted_split(Draw(num_sequences=120, num_sites=4, strength=1.8))
    model = Model(classes=CLASSES, means_C=np.array([0.5, 0.2, 0.15, 0.15]))
    made = judge(split, split, model, EvaluationSettings(num_resamples=100))
    assert evaluation_text(made) == GOLDEN


def test_what_has_no_meaning_is_left_out() -> None:
    """Without empty there are no blanks, and with one site there is no interval."""
    split = predicted_split(Draw(num_sequences=24, num_sites=1))
    names = ("zebra", "giraffe", "lion", "topi")
    model = Model(classes=names, means_C=np.array([0.5, 0.2, 0.15, 0.15]))
    made = judge(split, split, model, EvaluationSettings(num_resamples=5))
    assert "score tuned on val" in evaluation_text(made)
    text = evaluation_text(replace(made, confusions=(), tuning=None))
    assert "blanks" not in text
    assert "taken for" not in text
    assert "tuned on" not in text
    assert "nan" not in text.lower()
    assert "None" not in text
