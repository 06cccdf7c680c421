"""All figures of one split."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serengeti_etl.errors import require
from serengeti_etl.evaluate.blanks import BlankResult, blank_result, blank_threshold
from serengeti_etl.evaluate.captures import PredictedSplit
from serengeti_etl.evaluate.classes import THRESHOLD, ClassResult, class_results, macro_f1
from serengeti_etl.evaluate.confusion import (
    Confusion,
    LookAlikes,
    confusions,
    look_alikes,
    top_species,
)
from serengeti_etl.evaluate.groups import (
    Decisions,
    GroupResult,
    SiteResult,
    group_results,
    site_results,
)
from serengeti_etl.evaluate.reliability import Reliability, reliability
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.evaluate.tuning import TuningResult, f1_thresholds, tuning_result
from serengeti_etl.label_config import EMPTY
from serengeti_etl.train.metrics import mean_binary_log_loss
from serengeti_etl.train.predictions import CLIP, Float64
from serengeti_etl.train.sequences import WINNERS, Aggregation, aggregate_sequences, first_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The contents of ``evaluation.json``.

    All but ``tuning`` is of sequences aggregated as the competition's winner did, untempered. Two
    kinds of threshold are tuned on ``tuning.tuned_on``: those of F1, and that of blanks if none was
    given; both are 0.5 where there is no such split.

    Attributes:
        weights_sha256: of the weights that predicted; see ``checkpoint.weights_sha256``.
        split: that was predicted.
        num_images: predicted.
        num_sequences: made of them.
        score: mean binary log loss over sequences and classes; lower is better.
        class_means_score: the same, when the training split's class means are predicted.
        image_score: mean binary log loss over images and classes.
        clip: distance that probabilities kept from 0 and 1 in all of these.
        aggregation: of images to sequences.
        with_mirror: whether mirror images were predicted too.
        empty_shift: added to the log odds of ``empty``, as it was thinned in train; 0 if not.
        macro_f1: mean F1 of species with 20 sequences or more, at their thresholds.
        classes: one result per category, in the order of the model's outputs.
        blanks: None if ``empty`` is no class.
        confusions: most frequent first.
        look_alikes: groups of species.
        groups: all sequences, then parts of them.
        sites: by name.
        reliability: over all sequences and classes.
        class_reliability: by category.
        tuning: what fitting on ``val`` brings; None if there is no split to fit on.
    """

    weights_sha256: str
    split: str
    num_images: int
    num_sequences: int
    score: float
    class_means_score: float
    image_score: float
    clip: float
    aggregation: Aggregation
    with_mirror: bool
    empty_shift: float
    macro_f1: float | None
    classes: tuple[ClassResult, ...]
    blanks: BlankResult | None
    confusions: tuple[Confusion, ...]
    look_alikes: tuple[LookAlikes, ...]
    groups: tuple[GroupResult, ...]
    sites: tuple[SiteResult, ...]
    reliability: Reliability
    class_reliability: Mapping[str, Reliability]
    tuning: TuningResult | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """What is known of the model and its training.

    Attributes:
        classes: categories in the order of its outputs.
        means_C: class means of the training split's sequences, what there is to beat.
        empty_shift: that was added to the log odds of ``empty``.
        weights_sha256: of its weights; "" where nobody asks.
    """

    classes: tuple[str, ...]
    means_C: Float64
    empty_shift: float = 0.0
    weights_sha256: str = ""

    @property
    def empty(self) -> int | None:
        """Position of ``empty`` among the classes; None if it is no class."""
        return self.classes.index(EMPTY) if EMPTY in self.classes else None


def judge(
    judged: PredictedSplit,
    tuned: PredictedSplit | None,
    model: Model,
    settings: EvaluationSettings,
) -> Evaluation:
    """All figures of a split.

    Args:
        judged: the split.
        tuned: the split that thresholds and the like are fitted on; may be the same, or None.
        model: what predicted.
        settings: what may be chosen.

    Raises:
        ConfigError: shapes do not agree, or a value is no probability; names which.
    """
    for predicted in (judged, tuned or judged):
        _check(predicted, model.classes)
    classes, empty = model.classes, model.empty
    sequences = aggregate_sequences(judged.images, empty)
    decisions = _decisions(tuned, model, settings)
    captures = judged.captures.take(first_frames(judged.images.seq_ids))
    results = class_results(sequences, classes, model.means_C, decisions.thresholds_C)
    top = top_species(sequences, classes, empty)
    targets_NC, probabilities_NC = sequences.targets_NC, sequences.probabilities_NC
    blanks = None
    if empty is not None:
        blanks = blank_result(sequences, empty, decisions.blank_threshold)
    return Evaluation(
        weights_sha256=model.weights_sha256,
        split=judged.split,
        num_images=len(judged.images.names),
        num_sequences=len(sequences.names),
        score=mean_binary_log_loss(targets_NC, probabilities_NC),
        class_means_score=mean_binary_log_loss(targets_NC, model.means_C),
        image_score=mean_binary_log_loss(judged.images.targets_NC, judged.images.probabilities_NC),
        clip=CLIP,
        aggregation=WINNERS,
        with_mirror=settings.with_mirror,
        empty_shift=model.empty_shift,
        macro_f1=macro_f1(results),
        classes=results,
        blanks=blanks,
        confusions=confusions(top),
        look_alikes=look_alikes(top),
        groups=group_results(sequences, captures, decisions, settings),
        sites=site_results(sequences, captures, decisions),
        reliability=reliability(targets_NC.ravel(), probabilities_NC.ravel()),
        class_reliability={
            name: reliability(targets_NC[:, at], probabilities_NC[:, at])
            for at, name in enumerate(classes)
        },
        tuning=None
        if tuned is None
        else tuning_result(judged, tuned, classes, empty, settings.seed),
    )


def _check(predicted: PredictedSplit, classes: tuple[str, ...]) -> None:
    predicted.images.check(classes)
    num_images, split = len(predicted.images.names), predicted.split
    require(num_images > 0, f"images of split {split}", num_images, "one or more")


def _decisions(
    tuned: PredictedSplit | None, model: Model, settings: EvaluationSettings
) -> Decisions:
    empty, blank = model.empty, settings.blank_threshold
    thresholds_C = np.full(len(model.classes), THRESHOLD)
    if tuned is not None:
        sequences = aggregate_sequences(tuned.images, empty)
        thresholds_C = f1_thresholds(sequences)
        if blank is None and empty is not None:
            blank = blank_threshold(sequences, empty, settings.max_missed)
    return Decisions(
        means_C=model.means_C,
        thresholds_C=thresholds_C,
        empty=empty,
        blank_threshold=THRESHOLD if blank is None else blank,
    )
