"""What a submission does where it runs: without network, without anything else of this project.

The folder that it was unzipped into has a read-only ``data/``: photographs, ``test_metadata.csv``
and ``submission_format.csv``. ``submission.csv`` is left beside ``main.py``, whatever the
photographs are like: a sequence of which none can be read gets the class means.
"""

import csv
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from serengeti_etl.errors import CatalogError, ImageError
from serengeti_etl.predict.scores import BATCH_SIZE, Content, Outcome, predict_contents
from serengeti_etl.predict.sequences import together
from serengeti_etl.predict.served import CONFIG_FILE, ModelConfig, ServedModel
from serengeti_etl.train.predictions import Float64

LOG = logging.getLogger("serengeti_etl.submit")

DATA = "data"
METADATA_FILE, FORMAT_FILE = "test_metadata.csv", "submission_format.csv"
SUBMISSION_FILE = "submission.csv"
WEIGHTS_FILE = "weights.pt"

NUM_LOGGED = 20
"""Of one kind of trouble; the rest is counted."""

_LOG_EVERY = 1000


def run_submission(folder: Path, batch_size: int = BATCH_SIZE) -> None:
    """Predict the photographs in ``folder/data`` and leave ``folder/submission.csv``.

    Args:
        folder: that the submission was unzipped into.
        batch_size: photographs per batch; it decides nothing but memory.

    Raises:
        CatalogError: one of the two tables is missing, or lacks a column.
        ConfigError: the submission itself is damaged.
    """
    model = _read_model(folder)
    table = SubmissionTable.read(folder / DATA, model.config)
    LOG.info(
        "%d sequences, %d photographs; device %s; code from %s; torch %s",
        *(len(table.seq_ids), sum(map(len, table.frames))),
        *(model.network.mean_1C11.device, Path(__file__).parents[1], torch.__version__),
    )
    partial = folder / f".{SUBMISSION_FILE}.partial"
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["seq_id", *table.columns])
        for seq_id, row in _rows(model, folder / DATA, table, batch_size):
            writer.writerow([seq_id, *map(repr, row.tolist())])
    partial.replace(folder / SUBMISSION_FILE)
    LOG.info("written: %s", folder / SUBMISSION_FILE)


def log_to_stderr() -> None:
    """Let this package, and nothing else, say on stderr what it does."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    own = logging.getLogger("serengeti_etl")
    own.addHandler(handler)
    own.setLevel(logging.INFO)


def _read_model(folder: Path) -> ServedModel:
    value = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config = ModelConfig.from_json(value, CONFIG_FILE)
    if config.encoder_warning:
        LOG.warning("%s", config.encoder_warning)
    weights = torch.load(folder / WEIGHTS_FILE, map_location="cpu", weights_only=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ServedModel.build(config, weights, device)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionTable:
    """What is asked for.

    Attributes:
        columns: categories, in the order that is asked for.
        seq_ids: sequences, likewise.
        frames: names of the photographs of each sequence; () where none is listed.
        class_of: position in the model's outputs of each column; −1 where it has none.
        means: class mean of each column, for what cannot be predicted.
    """

    columns: tuple[str, ...]
    seq_ids: tuple[str, ...]
    frames: tuple[tuple[str, ...], ...]
    class_of: tuple[int, ...]
    means: Float64 = field(repr=False)

    @staticmethod
    def read(data: Path, config: ModelConfig) -> "SubmissionTable":
        """What the two tables in ``data`` ask of this model.

        Raises:
            CatalogError: one is missing, or lacks a column, or the model knows none of its columns.
        """
        header, *rows = _csv_rows(data / FORMAT_FILE)
        if header[:1] != ["seq_id"] or len(header) < 2:  # noqa: PLR2004
            raise CatalogError(
                f"{FORMAT_FILE} begins with {header[:3]}, but it must have seq_id and then a "
                "column per category"
            )
        columns, seq_ids = tuple(header[1:]), tuple(row[0] for row in rows)
        known = {name: at for at, name in enumerate(config.classes)}
        _say_differences(columns, config.classes)
        frames = _frames_of(data / METADATA_FILE, seq_ids)
        return SubmissionTable(
            columns=columns,
            seq_ids=seq_ids,
            frames=frames,
            class_of=tuple(known.get(name, -1) for name in columns),
            means=_means(columns, config),
        )

    def row(self, probabilities_C: Float64 | None) -> Float64:
        """The row of a sequence; class means for what the model does not tell."""
        if probabilities_C is None:
            return self.means
        at = np.array(self.class_of)
        return np.where(at >= 0, probabilities_C[at], self.means)


def _say_differences(columns: Sequence[str], classes: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in classes]
    if len(unknown) == len(columns):
        raise CatalogError(
            f"the model knows none of the {len(columns)} columns of {FORMAT_FILE}, such as "
            f"{columns[0]!r}, but {list(classes)[:5]}: it was trained on other categories"
        )
    if unknown:
        LOG.warning(
            "%d columns of %s are no categories of the model, and get the mean of its rarest: %s",
            *(len(unknown), FORMAT_FILE, unknown),
        )
    unasked = [name for name in classes if name not in columns]
    if unasked:
        LOG.warning("%d categories of the model are not asked for: %s", len(unasked), unasked)


def _means(columns: Sequence[str], config: ModelConfig) -> Float64:
    means = dict(zip(config.classes, config.sequence_means, strict=True))
    rarest = min(means.values())
    return np.array([means.get(name, rarest) for name in columns])


def _frames_of(path: Path, seq_ids: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    header, *rows = _csv_rows(path)
    missing = [name for name in ("seq_id", "file_name") if name not in header]
    if missing:
        raise CatalogError(f"{path.name} has no column {missing[0]!r}, only {header[:12]}")
    at_seq, at_file = header.index("seq_id"), header.index("file_name")
    frames: dict[str, list[str]] = {name: [] for name in seq_ids}
    num_unasked = 0
    for row in rows:
        if row[at_seq] in frames:
            frames[row[at_seq]].append(row[at_file])
        else:
            num_unasked += 1
    if num_unasked:
        LOG.warning("%d photographs are of sequences that are not asked for", num_unasked)
    return tuple(tuple(sorted(frames[name])) for name in seq_ids)


def _csv_rows(path: Path) -> list[list[str]]:
    """Header and rows, all of the header's length."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except FileNotFoundError:
        raise CatalogError(f"there is no {path.parent.name}/{path.name} beside main.py") from None
    if not rows:
        raise CatalogError(f"{path.name} is empty")
    cut = next((at for at, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if cut is not None:
        raise CatalogError(
            f"{path.name}, row {cut}: {len(rows[cut - 1])} values, but the header has "
            f"{len(rows[0])}"
        )
    return rows


def _rows(
    model: ServedModel, data: Path, table: SubmissionTable, batch_size: int
) -> Iterator[tuple[str, Float64]]:
    """Each sequence with its row, in order; says what could not be read."""
    names = [name for frames in table.frames for name in frames]
    contents = (_read(data / name) for name in names)
    outcomes = predict_contents(model, contents, batch_size)
    trouble = _Trouble()
    num_done = 0
    for seq_id, frames in zip(table.seq_ids, table.frames, strict=True):
        # Frames first: when they are at an end, no further outcome is taken.
        pairs = zip(frames, outcomes, strict=False)
        good = [one for name, outcome in pairs for one in trouble.passed(name, outcome)]
        if not good:
            trouble.say("sequence without photographs", f"{seq_id}: it gets the class means")
        yield seq_id, table.row(together(good, model.config) if good else None)
        num_done += len(frames)
        if num_done // _LOG_EVERY > (num_done - len(frames)) // _LOG_EVERY:
            LOG.info("%d of %d photographs", num_done, len(names))
    trouble.sum_up()


def _read(path: Path) -> Content:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return ImageError("missing", "there is no such file")
    except OSError as error:
        return ImageError("unreadable", str(error))


class _Trouble:
    """Counts of what went wrong, of which the first are logged."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def passed(self, name: str, outcome: Outcome) -> tuple[Float64, ...]:
        """The probabilities of the photograph ``name``; (), after noting it, if there are none."""
        if isinstance(outcome, ImageError):
            self.say(outcome.reason, f"{name}: {outcome.message}")
            return ()
        return (outcome,)

    def say(self, kind: str, what: str) -> None:
        """Note one case."""
        self._counts[kind] += 1
        if self._counts[kind] <= NUM_LOGGED:
            LOG.warning("%s: %s", kind, what)

    def sum_up(self) -> None:
        """Say how many there were of each kind."""
        for kind, count in sorted(self._counts.items()):
            LOG.warning("%s: %d in all", kind, count)
