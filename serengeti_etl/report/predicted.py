"""Predictions of a run beside what the dataset says, a column at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serengeti_etl.dataset.index import UNREADABLE, Dataset
from serengeti_etl.errors import DatasetError
from serengeti_etl.evaluate.curves import precision_recall
from serengeti_etl.evaluate.files import SEQUENCES_FILE
from serengeti_etl.label_config import EMPTY
from serengeti_etl.report.charts import Point
from serengeti_etl.report.samples import flat_labels
from serengeti_etl.storage import Store
from serengeti_etl.train.metrics import binary_log_losses
from serengeti_etl.train.predictions import Flags, Float64, Int64

NUM_RESAMPLES = 400
"""Of the sequences of a site, for its interval."""

_CONFIDENCE = 0.95
_MAX_CURVE_POINTS = 60
_MAX_DRAWN = 1_000_000
_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """What the dataset says of some sequences.

    Attributes:
        shown_NC: whether each shows each class; ``empty`` if all of its frames are.
        sites_N: where the camera stood.
        num_frames_N: images of each; 0 where the dataset has no such sequence.
    """

    shown_NC: Flags
    sites_N: NDArray[np.object_]
    num_frames_N: Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteInterval:
    """How far a site's figures would vary with other sequences from it.

    Attributes:
        score: low and high.
        top1: low and high; None where no sequence shows a class.
    """

    score: tuple[float, float]
    top1: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """Predicted sequences beside the truth.

    Attributes:
        classes: categories in the order of the columns.
        seq_ids: names of the sequences, in the order of the rows.
        truth: of them.
        loss_N: mean binary log loss of each.
        top_N: likeliest class of each.
        right_N: whether it shows that.
        taken_CC: sequences that show a species, by the likeliest species: rows are what is shown.
        curves: recall and precision by class, of those that are shown at all.
    """

    classes: tuple[str, ...]
    seq_ids: pa.Array
    truth: Truth
    loss_N: Float64
    top_N: Int64
    right_N: Flags
    taken_CC: Int64
    curves: Mapping[str, tuple[Point, ...]]


def read_predicted(run: Store, dataset: Dataset, split: str, score: float) -> Predicted:
    """The predicted sequences of an evaluated run.

    Args:
        run: of it.
        dataset: that it was evaluated on.
        split: that was predicted.
        score: that the evaluation came to.

    Raises:
        DatasetError: predictions and dataset do not belong together, or one is damaged.
        OSError: one is missing, or the store failed on every try.
    """
    columns = columns_of(run, SEQUENCES_FILE)
    seq_ids = pa.concat_arrays(next(columns)[1].chunks).cast(pa.string())
    classes = dataset.classes
    truth = read_truth(dataset, split, seq_ids)
    reader = _Reader(classes, truth)
    for name, column in columns:
        reader.add(name, column.to_numpy())
    found = reader.predicted(seq_ids)
    if not truth.num_frames_N.all() or abs(float(found.loss_N.mean()) - score) > _TOLERANCE:
        raise DatasetError(
            f"the predictions in {run.url} are not of split {split} of {dataset.store.url} as it "
            "is now: give the dataset that was evaluated, or evaluate again"
        )
    return found


def columns_of(
    store: Store, name: str, wanted: Sequence[str] | None = None
) -> Iterator[tuple[str, pa.ChunkedArray]]:
    """The columns of a Parquet file one by one, in its order.

    Args:
        store: where it lies.
        name: of the file.
        wanted: names of columns; None takes all.

    Raises:
        DatasetError: the file is damaged.
        OSError: it is missing, or the store failed on every try.
    """
    try:
        with store.open_input(name) as source:
            file = pq.ParquetFile(source)
            for column in wanted if wanted is not None else file.schema_arrow.names:
                yield column, file.read(columns=[column], use_threads=False)[column]
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise DatasetError(f"{name} in {store.url} cannot be read: {error}") from error


def read_truth(dataset: Dataset, split: str, seq_ids: pa.Array) -> Truth:
    """What ``dataset`` says of these sequences of ``split``."""
    classes, place_of = dataset.classes, pd.Index(seq_ids.to_pylist())
    num = len(seq_ids)
    shown_NC = np.zeros((num, len(classes)), dtype=bool)
    empty_N, frames_N = np.zeros(num, dtype=np.int64), np.zeros(num, dtype=np.int64)
    sites_N = np.full(num, "", dtype=np.object_)
    columns = ("seq_id", "site", "labels", "split")
    for table in dataset.index_tables(split, columns):
        of_split = table.filter(pc.equal(table["split"], split))
        places_M = place_of.get_indexer(of_split["seq_id"].cast(pa.string()).to_pylist())
        labels, rows_K = flat_labels(of_split["labels"])
        codes_K = pd.Index(classes).get_indexer(labels.to_pylist())
        known_K = (codes_K >= 0) & (places_M[rows_K] >= 0)
        shown_NC[places_M[rows_K[known_K]], codes_K[known_K]] = True
        known_M = places_M >= 0
        frames_N += np.bincount(places_M[known_M], minlength=num)
        is_empty_K = known_K & (labels.to_numpy(zero_copy_only=False) == EMPTY)
        empty_N += np.bincount(places_M[rows_K[is_empty_K]], minlength=num)
        sites_M = np.array(of_split["site"].cast(pa.string()).to_pylist(), dtype=np.object_)
        sites_N[places_M[known_M]] = sites_M[known_M]
    if EMPTY in classes:
        shown_NC[:, classes.index(EMPTY)] = (empty_N == frames_N) & (frames_N > 0)
    return Truth(shown_NC=shown_NC, sites_N=sites_N, num_frames_N=frames_N)


class _Reader:
    """What is kept of the columns of probabilities."""

    def __init__(self, classes: tuple[str, ...], truth: Truth) -> None:
        num = len(truth.sites_N)
        self.classes, self.truth = classes, truth
        self.seen: set[str] = set()
        self.loss_N = np.zeros(num)
        # The first of equals counts, as of argmax.
        self.best_N, self.top_N = np.full(num, -1.0), np.zeros(num, dtype=np.int64)
        self.best_species_N, self.species_N = np.full(num, -1.0), np.zeros(num, dtype=np.int64)
        self.curves: dict[str, tuple[Point, ...]] = {}

    def add(self, name: str, p_N: Float64) -> None:
        """The probabilities of one class."""
        if name not in self.classes:
            raise DatasetError(f"{SEQUENCES_FILE} has the class {name}, which the dataset has not")
        at = self.classes.index(name)
        self.seen.add(name)
        shown_N = self.truth.shown_NC[:, at]
        losses_N1 = binary_log_losses(shown_N[:, None].astype(np.float64), p_N[:, None])
        self.loss_N += losses_N1[:, 0] / len(self.classes)
        is_best_N = p_N > self.best_N
        self.best_N[is_best_N], self.top_N[is_best_N] = p_N[is_best_N], at
        if name != EMPTY:
            is_best_N = p_N > self.best_species_N
            self.best_species_N[is_best_N], self.species_N[is_best_N] = p_N[is_best_N], at
        if shown_N.any():
            self.curves[name] = _curve(shown_N.astype(np.float64), p_N)

    def predicted(self, seq_ids: pa.Array) -> Predicted:
        """All of it."""
        if len(self.seen) < len(self.classes):
            missing = sorted(set(self.classes) - self.seen)
            raise DatasetError(f"{SEQUENCES_FILE} lacks the classes {', '.join(missing)}")
        shown_NC = self.truth.shown_NC
        return Predicted(
            classes=self.classes,
            seq_ids=seq_ids,
            truth=self.truth,
            loss_N=self.loss_N,
            top_N=self.top_N,
            right_N=shown_NC[np.arange(len(self.top_N)), self.top_N],
            taken_CC=self._taken(),
            curves=self.curves,
        )

    def _taken(self) -> Int64:
        num = len(self.classes)
        rows_M, shown_M = np.nonzero(self.truth.shown_NC)
        empty = self.classes.index(EMPTY) if EMPTY in self.classes else -1
        species = np.flatnonzero(shown_M != empty)
        pairs: Int64 = np.asarray(shown_M * num + self.species_N[rows_M])
        counts = np.bincount(pairs[species], minlength=num * num)
        return counts.reshape(num, num).astype(np.int64)


def _curve(shown_N: Float64, p_N: Float64) -> tuple[Point, ...]:
    """Recall and precision at some of the thresholds, from the surest on."""
    curve = precision_recall(shown_N, p_N)
    last = len(curve.thresholds_T) - 1
    rows = np.unique(np.linspace(0, last, _MAX_CURVE_POINTS).round().astype(np.int64))
    pairs = zip(curve.recalls[rows].tolist(), curve.precisions[rows].tolist(), strict=True)
    return tuple(pairs)


def site_intervals(predicted: Predicted) -> dict[str, SiteInterval]:
    """95 % intervals of each site's figures, by resampling its sequences."""
    generator = np.random.Generator(np.random.Philox(key=0))
    frame = pd.DataFrame({"site": predicted.truth.sites_N})
    labelled_N: Flags = np.asarray(predicted.truth.shown_NC.any(axis=1))
    found = {}
    for name, rows in sorted(frame.groupby("site").indices.items()):
        loss, right = predicted.loss_N[rows], predicted.right_N[rows][labelled_N[rows]]
        found[str(name)] = SiteInterval(
            score=_interval(loss, generator),
            top1=_interval(right.astype(np.float64), generator) if len(right) else None,
        )
    return found


def _interval(values_N: Float64, generator: np.random.Generator) -> tuple[float, float]:
    num = len(values_N)
    at_once = max(1, _MAX_DRAWN // num)
    means: list[Any] = []
    for first in range(0, NUM_RESAMPLES, at_once):
        size = (min(at_once, NUM_RESAMPLES - first), num)
        means.append(values_N[generator.integers(0, num, size)].mean(axis=1))
    tail = 100 * (1 - _CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)
