"""The validation split as several ranks predict it, and its score."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.label_config import EMPTY
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.table import ImageTable
from serengeti_etl.train.metrics import (
    Float64,
    Predictions,
    aggregate_sequences,
    class_means,
    mean_binary_log_loss,
)
from serengeti_etl.train.model import Classifier, predict
from serengeti_etl.train.thinning import kept_share, restore_blanks

Part = tuple[NDArray[np.int64], Predictions]
"""Places in the order of the dataset, and the predictions of the images there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a validation comes to.

    Attributes:
        score: mean binary log loss over sequences and classes; lower is better.
        class_means_score: the same, when the training split's class means are predicted.
        num_sequences: that were scored.
    """

    score: float
    class_means_score: float
    num_sequences: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """How predictions are judged.

    Attributes:
        means_C: class means of the training split's sequences, what there is to beat.
        empty: position of the blanks' class; None if it is no class.
        empty_weight: how often a blank came against another image in training, of all there are.
    """

    means_C: Float64
    empty: int | None
    empty_weight: float

    @staticmethod
    def of(dataset: Dataset, images: ImageTable, empty_weight: float) -> "Validation":
        """For a model that learns from the images.

        Args:
            dataset: which may have lost blanks when it was made.
            images: of its training split.
            empty_weight: how often a blank of them comes against another image.
        """
        empty, kept = dataset.class_index.get(EMPTY), kept_share(dataset.info.priors)
        means_C = class_means(*images.sequence_counts())
        return Validation(
            means_C=restore_blanks(means_C[None], empty, kept)[0],
            empty=empty,
            empty_weight=kept * empty_weight,
        )

    def scores(self, parts: list[Part]) -> Scores:
        """Of all ranks' parts together, in the order of the dataset, whatever the ranks."""
        images = _joined(parts, self.empty, self.empty_weight)
        sequences = aggregate_sequences(images, self.empty)
        targets_NC = sequences.targets_NC
        return Scores(
            score=mean_binary_log_loss(targets_NC, sequences.probabilities_NC),
            class_means_score=mean_binary_log_loss(targets_NC, self.means_C),
            num_sequences=len(sequences.names),
        )

    def judged(self, part: Part) -> Predictions:
        """One rank's part with the probabilities that are scored, in its own order."""
        probabilities_NC = part[1].probabilities_NC
        restored_NC = restore_blanks(probabilities_NC, self.empty, self.empty_weight)
        return dataclasses.replace(part[1], probabilities_NC=restored_NC)


def predict_part(model: Classifier, batches: Iterable[Batch]) -> Part:
    """This rank's part of a split, without the blanks that fill up batches.

    Args:
        model: on the device where it shall work; left in eval mode.
        batches: of this rank.
    """
    places: list[NDArray[np.int64]] = []

    def noted() -> Iterator[Batch]:
        for batch in batches:
            places.append(batch.positions_B[batch.mask_B].numpy())
            yield batch

    predictions = predict(model, noted())
    return np.concatenate([np.empty(0, dtype=np.int64), *places]), predictions


def _joined(parts: list[Part], empty: int | None, empty_weight: float) -> Predictions:
    order_N = np.argsort(np.concatenate([places for places, _ in parts]), kind="stable")
    names = [name for _, part in parts for name in part.names]
    seq_ids = [name for _, part in parts for name in part.seq_ids]
    targets_NC = np.concatenate([part.targets_NC for _, part in parts])
    probabilities_NC = np.concatenate([part.probabilities_NC for _, part in parts])
    return Predictions(
        names=tuple(names[at] for at in order_N.tolist()),
        seq_ids=tuple(seq_ids[at] for at in order_N.tolist()),
        targets_NC=targets_NC[order_N],
        probabilities_NC=restore_blanks(probabilities_NC[order_N], empty, empty_weight),
    )
