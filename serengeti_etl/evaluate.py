"""A finished run judged by sequences: the competition's score and a table of classes."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from serengeti_etl.dataset.index import Dataset, write_table
from serengeti_etl.errors import require
from serengeti_etl.label_config import EMPTY
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.metrics import (
    CLIP,
    Float64,
    Predictions,
    aggregate_sequences,
    average_precision,
    binary_log_losses,
    class_means,
    mean_binary_log_loss,
)
from serengeti_etl.train.model import Classifier, predict
from serengeti_etl.train.settings import TrainSettings

EVALUATION_FILE = "evaluation.json"
IMAGES_FILE = "predictions-images.parquet"
SEQUENCES_FILE = "predictions-sequences.parquet"

BATCH_SIZE = 64
"""Images per batch; it decides nothing but memory."""

THRESHOLD = 0.5
"""Probability from which a category counts as predicted in precision and recall."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassResult:
    """How one category fares, over sequences.

    Attributes:
        name: category.
        support: sequences that show it.
        mean_prediction: mean probability.
        log_loss: mean binary log loss.
        class_means_log_loss: the same, when the class mean is predicted for every sequence.
        average_precision: area under precision over recall; None without support.
        precision: right among the predicted at 0.5; None if nothing is predicted.
        recall: predicted at 0.5 among those shown; None without support.
    """

    name: str
    support: int
    mean_prediction: float
    log_loss: float
    class_means_log_loss: float
    average_precision: float | None
    precision: float | None
    recall: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The contents of ``evaluation.json``.

    Attributes:
        split: that was predicted.
        num_images: predicted.
        num_sequences: made of them.
        score: mean binary log loss over sequences and classes; lower is better.
        class_means_score: the same, when the training split's class means are predicted.
        image_score: mean binary log loss over images and classes.
        clip: distance that probabilities kept from 0 and 1 in all of these.
        classes: one result per category, in the order of the model's outputs.
    """

    split: str
    num_images: int
    num_sequences: int
    score: float
    class_means_score: float
    image_score: float
    clip: float
    classes: tuple[ClassResult, ...]


def evaluate_run(
    run_url: str, dataset_url: str, split: str = "val", *, settings: TrainSettings | None = None
) -> Evaluation:
    """Predict ``split`` with a finished run's model, and write what comes out into the run.

    Writes ``evaluation.json``, ``predictions-images.parquet`` and
    ``predictions-sequences.parquet``; the last two have one column per category.

    Args:
        run_url: folder or bucket prefix of the run.
        dataset_url: a dataset with the classes of the run.
        split: such as ``val``.
        settings: where to work.

    Raises:
        ConfigError: the run is not finished, or the dataset has other classes.
        DatasetError: there is no finished dataset, or not this split.
    """
    settings = settings or TrainSettings()
    run = Store(url=run_url, options=settings.run_options)
    dataset = Dataset(Store(url=dataset_url, options=settings.dataset_options))
    images = _predict_split(ModelFile.read(run), dataset, split, settings)
    sequences = aggregate_sequences(images, dataset.class_index.get(EMPTY))
    train = read_images([dataset], "train", EVERYTHING).images
    means_C = class_means(*train.sequence_counts())
    evaluation = judge(images, sequences, dataset.classes, means_C, split)
    write_table(run, IMAGES_FILE, _table(images, dataset.classes, "image_id"))
    write_table(run, SEQUENCES_FILE, _table(sequences, dataset.classes, None))
    run.write_json(EVALUATION_FILE, dataclasses.asdict(evaluation))
    return evaluation


def judge(
    images: Predictions,
    sequences: Predictions,
    classes: tuple[str, ...],
    means_C: Float64,
    split: str,
) -> Evaluation:
    """Scores and the table of classes.

    Args:
        images: predictions of images.
        sequences: the same, aggregated.
        classes: categories in the order of the columns.
        means_C: class means of the training split's sequences, what there is to beat.
        split: for the record.
    """
    targets_NC = sequences.targets_NC
    return Evaluation(
        split=split,
        num_images=len(images.names),
        num_sequences=len(sequences.names),
        score=mean_binary_log_loss(targets_NC, sequences.probabilities_NC),
        class_means_score=mean_binary_log_loss(targets_NC, means_C),
        image_score=mean_binary_log_loss(images.targets_NC, images.probabilities_NC),
        clip=CLIP,
        classes=_class_results(sequences, classes, means_C),
    )


def _class_results(
    sequences: Predictions, classes: tuple[str, ...], means_C: Float64
) -> tuple[ClassResult, ...]:
    targets_NC, probabilities_NC = sequences.targets_NC, sequences.probabilities_NC
    losses_C = binary_log_losses(targets_NC, probabilities_NC).mean(axis=0)
    baseline_C = binary_log_losses(targets_NC, means_C).mean(axis=0)
    results = []
    for index, name in enumerate(classes):
        shown_N, probability_N = targets_NC[:, index], probabilities_NC[:, index]
        predicted_N = probability_N >= THRESHOLD
        num_right = float(shown_N[predicted_N].sum())
        results.append(
            ClassResult(
                name=name,
                support=int(shown_N.sum()),
                mean_prediction=float(probability_N.mean()),
                log_loss=float(losses_C[index]),
                class_means_log_loss=float(baseline_C[index]),
                average_precision=average_precision(shown_N, probability_N),
                precision=_share(num_right, float(predicted_N.sum())),
                recall=_share(num_right, float(shown_N.sum())),
            )
        )
    return tuple(results)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _predict_split(
    file: ModelFile, dataset: Dataset, split: str, settings: TrainSettings
) -> Predictions:
    found, known = dataset.classes, file.classes
    require(found == known, "classes of the dataset", found, f"those of the model, {known}")
    model = Classifier(file.model, len(file.classes))
    model.network.load_state_dict(file.state_dict)
    model.to(settings.torch_device)
    loader_settings = settings.loader_settings(file.image_size).for_evaluation()
    with ShardLoader(
        dataset, split=split, batch_size=BATCH_SIZE, settings=loader_settings
    ) as loader:
        images = predict(model, loader)
    require(bool(images.names), f"images of split {split}", 0, "one or more")
    return images


def _table(predictions: Predictions, classes: tuple[str, ...], id_column: str | None) -> pa.Table:
    """Ids and one float column per category, named by it."""
    columns: dict[str, Any] = {} if id_column is None else {id_column: list(predictions.names)}
    columns["seq_id"] = list(predictions.seq_ids)
    for index, name in enumerate(classes):
        columns[name] = np.ascontiguousarray(predictions.probabilities_NC[:, index])
    return pa.table(columns)
