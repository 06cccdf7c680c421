"""A finished run is predicted, judged, and what comes out is written into it."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from serengeti_etl.dataset.index import Dataset, write_table
from serengeti_etl.errors import require
from serengeti_etl.evaluate.captures import TRAIN, PredictedSplit, read_captures
from serengeti_etl.evaluate.files import EVALUATION_FILE, IMAGES_FILE, SEQUENCES_FILE, TUNED_FILE
from serengeti_etl.evaluate.judge import Evaluation, Model, judge
from serengeti_etl.evaluate.settings import EvaluationSettings
from serengeti_etl.label_config import EMPTY
from serengeti_etl.lease import hold
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.load.read_table import read_images
from serengeti_etl.load.selection import EVERYTHING
from serengeti_etl.storage import Store
from serengeti_etl.train.calibration import prior_shift, with_prior_shift
from serengeti_etl.train.checkpoint import ModelFile, weights_sha256
from serengeti_etl.train.metrics import class_means
from serengeti_etl.train.model import Classifier, predict
from serengeti_etl.train.predictions import Float64, Predictions
from serengeti_etl.train.sequences import aggregate_sequences
from serengeti_etl.train.settings import TrainSettings

BATCH_SIZE = 64
"""Images per batch; it decides nothing but memory."""


def evaluate_run(
    run_url: str,
    dataset_url: str,
    split: str = "val",
    *,
    settings: TrainSettings | None = None,
    evaluation: EvaluationSettings | None = None,
) -> Evaluation:
    """Predict ``split`` with a finished run's model, and write what comes out into the run.

    Writes ``evaluation.json``, ``predictions-images.parquet``, ``predictions-sequences.parquet``
    and, of sequences as ``predict --tuned`` would make them, ``predictions-tuned.parquet``, if
    there was a split to tune on; the tables have one column per category. The first has beside the
    fields of ``Evaluation`` the ``dataset``'s url and ``plan_hash``.

    Args:
        run_url: folder or bucket prefix of the run.
        dataset_url: a dataset with the classes of the run; its ``train`` split is taken for what
            the model was trained on: class means, sites seen, how far ``empty`` was thinned.
        split: such as ``val``.
        settings: where to work.
        evaluation: what may be chosen.

    Raises:
        ConfigError: the run is not finished, or the dataset has other classes.
        OutputHeld: another process writes to the run.
        DatasetError: there is no finished dataset, or not this split.
    """
    settings, evaluation = settings or TrainSettings(), evaluation or EvaluationSettings()
    run = Store(url=run_url, options=settings.run_options)
    dataset = Dataset(Store(url=dataset_url, options=settings.dataset_options))
    dataset.shards(split)  # names the splits there are
    file = ModelFile.read(run)
    model = Model(
        classes=dataset.classes,
        means_C=_train_means(dataset),
        empty_shift=file.empty_shift,
        weights_sha256=weights_sha256(file.state_dict),
    )
    predictor = _Predictor(file, dataset, model, settings)
    # Of two at once, files of the one and of the other would come to lie side by side.
    with hold(run) as lease:
        judged = predictor.predict(split, with_mirror=evaluation.with_mirror)
        tuned = judged if evaluation.tune_on == split else None
        if tuned is None and evaluation.tune_on in dataset.splits:
            tuned = predictor.predict(evaluation.tune_on, with_mirror=evaluation.with_mirror)
        result = judge(judged, tuned, model, evaluation)
        lease.check()
        _write_tables(run, judged.images, result, model)
        on = {"dataset": dataset.store.url, "plan_hash": dataset.plan_hash}
        run.write_json(EVALUATION_FILE, dataclasses.asdict(result) | on)
    return result


def _write_tables(run: Store, images: Predictions, result: Evaluation, model: Model) -> None:
    """Write the predictions of images and, plain and tuned, of their sequences."""
    sequences = aggregate_sequences(images, model.empty)
    write_table(run, IMAGES_FILE, _table(images, model.classes, "image_id"))
    write_table(run, SEQUENCES_FILE, _table(sequences, model.classes, None))
    run.delete(TUNED_FILE)
    if result.tuning is not None:
        serving = result.tuning.serving(model.classes, with_mirror=result.with_mirror)
        better = serving.sequences(images, model.empty)
        write_table(run, TUNED_FILE, _table(better, model.classes, None))


def _train_means(dataset: Dataset) -> Float64:
    """Class means of the training split's sequences, as they were before ``empty`` was thinned."""
    images = read_images([dataset], TRAIN, EVERYTHING).images
    counts_C, total = images.sequence_counts()
    before = dataset.info.priors.get("before")
    if before and prior_shift(dataset.info.priors):
        # What was thinned out is in no shard: it is counted in dataset.json alone.
        removed = before["num_sequences"] - dataset.info.priors["after"]["num_sequences"]
        counts_C = counts_C + removed * (np.array(dataset.classes) == EMPTY)
        total += removed
    return class_means(counts_C, total)


class _Predictor:
    def __init__(
        self, file: ModelFile, dataset: Dataset, model: Model, settings: TrainSettings
    ) -> None:
        found, known = dataset.classes, file.classes
        require(found == known, "classes of the dataset", found, f"those of the model, {known}")
        self._dataset, self._model, self._settings = dataset, model, settings
        self._loader_settings = settings.loader_settings(
            file.image_size, crop_bottom=file.crop_bottom
        ).for_evaluation()
        self._classifier = Classifier(file.model, len(file.classes))
        self._classifier.network.load_state_dict(file.state_dict)
        self._classifier.to(settings.torch_device)

    def predict(self, split: str, *, with_mirror: bool) -> PredictedSplit:
        """All images of the split, with the odds of ``empty`` put right, and their captures."""
        with ShardLoader(
            self._dataset, split=split, batch_size=BATCH_SIZE, settings=self._loader_settings
        ) as loader:
            images = predict(self._classifier, loader, with_mirror=with_mirror)
        require(bool(images.names), f"images of split {split}", 0, "one or more")
        if self._model.empty is not None:
            images = with_prior_shift(images, self._model.empty, self._model.empty_shift)
        captures = read_captures(self._dataset, split, images.names)
        return PredictedSplit(split=split, images=images, captures=captures)


def _table(predictions: Predictions, classes: tuple[str, ...], id_column: str | None) -> pa.Table:
    """Ids and one float column per category, named by it."""
    columns: dict[str, Any] = {} if id_column is None else {id_column: list(predictions.names)}
    columns["seq_id"] = list(predictions.seq_ids)
    for index, name in enumerate(classes):
        columns[name] = np.ascontiguousarray(predictions.probabilities_NC[:, index])
    return pa.table(columns)
