"""The worst mistakes of a run, as pictures with their sequences."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.evaluate.files import IMAGES_FILE, SEQUENCES_FILE
from serengeti_etl.report.predicted import Predicted, columns_of
from serengeti_etl.report.samples import COLUMNS, Photograph, photographs
from serengeti_etl.report.thumbnails import Sheet
from serengeti_etl.storage import Store
from serengeti_etl.train.predictions import Float64

NUM_MISTAKES, PER_SITE, MAX_FRAMES = 18, 3, 6

_NUM_GUESSES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """A category with its probability.

    Attributes:
        name: of it.
        probability: that was predicted.
        is_right: whether it is shown.
    """

    name: str
    probability: float
    is_right: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """A sequence that was taken for something else.

    Attributes:
        seq_id: its name.
        site: where the camera stood.
        when: by the camera's clock; "" if unknown.
        shown: what the sequence shows, each with the probability that it was given.
        guesses: the likeliest categories.
        loss: mean binary log loss.
        num_frames: of the sequence.
    """

    seq_id: str
    site: str
    when: str
    shown: tuple[Guess, ...]
    guesses: tuple[Guess, ...]
    loss: float
    num_frames: int


def worst_rows(predicted: Predicted) -> list[int]:
    """Sequences whose likeliest class is wrong, by their loss; a few of each site at most."""
    wrong = np.flatnonzero(~predicted.right_N & predicted.truth.shown_NC.any(axis=1))
    order = wrong[np.argsort(-predicted.loss_N[wrong], kind="stable")]
    of_site: Counter[str] = Counter()
    rows = []
    for row in order.tolist():
        site = predicted.truth.sites_N[row]
        of_site[site] += 1
        if of_site[site] <= PER_SITE:
            rows.append(row)
        if len(rows) == NUM_MISTAKES:
            break
    return rows


def read_mistakes(
    run: Store, dataset: Dataset, split: str, predicted: Predicted
) -> tuple[list[Mistake], list[Sheet]]:
    """The worst mistakes, and for each the photographs of its sequence.

    Raises:
        DatasetError: index or predictions are damaged.
        OSError: the store failed on every try.
    """
    rows = worst_rows(predicted)
    seq_ids = predicted.seq_ids.take(pa.array(rows, pa.int64())).to_pylist()
    frames = _frames(dataset, split, seq_ids)
    wanted = [one.image_id for name in seq_ids for one in frames[name][:MAX_FRAMES]]
    by_image = _probabilities(run, IMAGES_FILE, "image_id", wanted)
    by_sequence = _probabilities(run, SEQUENCES_FILE, "seq_id", seq_ids)
    mistakes, sheets = [], []
    for row, name in zip(rows, seq_ids, strict=True):
        found, shown_C = frames[name], predicted.truth.shown_NC[row]
        p_C, classes = by_sequence[name], predicted.classes
        guesses = [_guess(classes, p_C, shown_C, at) for at in np.argsort(-p_C, kind="stable")]
        moment = found[0].moment if found else None
        mistakes.append(
            Mistake(
                seq_id=name,
                site=predicted.truth.sites_N[row],
                when=f"{moment:%Y-%m-%d %H:%M}" if moment else "",
                shown=tuple(one for one in guesses if one.is_right),
                guesses=tuple(guesses[:_NUM_GUESSES]),
                loss=float(predicted.loss_N[row]),
                num_frames=len(found),
            )
        )
        sheets.append(_sheet(name, found[:MAX_FRAMES], by_image, classes))
    return mistakes, sheets


def _guess(classes: Sequence[str], p_C: Float64, shown_C: object, at: int) -> Guess:
    is_right = bool(np.asarray(shown_C)[at])
    return Guess(name=classes[at], probability=float(p_C[at]), is_right=is_right)


def _sheet(
    name: str,
    found: Sequence[Photograph],
    by_image: dict[str, Float64],
    classes: Sequence[str],
) -> Sheet:
    def caption(one: Photograph) -> str:
        p_C = by_image.get(one.image_id)
        if p_C is None:
            return f"frame {one.frame_num}"
        top = int(p_C.argmax())
        return f"frame {one.frame_num}: {classes[top]} {p_C[top]:.2f}"

    return Sheet(name=name, note="", photographs=found, caption=caption)


def _frames(dataset: Dataset, split: str, seq_ids: Sequence[str]) -> dict[str, list[Photograph]]:
    """The photographs of each sequence, in order."""
    frames: dict[str, list[Photograph]] = {name: [] for name in seq_ids}
    wanted = pa.array(seq_ids, pa.string())
    for table in dataset.index_tables(split, COLUMNS):
        is_wanted = pc.and_(
            pc.is_in(table["seq_id"].cast(pa.string()), value_set=wanted),
            pc.equal(table["split"], split),
        )
        for one in photographs(table.filter(is_wanted)):
            frames[one.seq_id].append(one)
    for found in frames.values():
        found.sort(key=lambda one: (one.frame_num, one.image_id))
    return frames


def _probabilities(
    run: Store, name: str, id_column: str, wanted: Sequence[str]
) -> dict[str, Float64]:
    """Probabilities of some rows of a file, by their id."""
    columns = columns_of(run, name)
    ids, rows, values = pa.array(wanted, pa.string()), None, []
    for column, content in columns:
        if column == id_column:
            rows = pc.index_in(ids, value_set=content.cast(pa.string()))
        elif column != "seq_id" and rows is not None:
            values.append(content.take(rows).to_numpy(zero_copy_only=False))
    table_NC = np.stack(values, axis=1) if values else np.empty((len(wanted), 0))
    return {name: table_NC[at] for at, name in enumerate(wanted) if np.isfinite(table_NC[at]).all()}
