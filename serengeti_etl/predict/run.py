"""Prediction from end to end: photographs are read ahead, prepared, predicted, written in parts.

Nothing but file names grows with their number. The outputs get their names when they are whole, and
until then a journal beside them keeps what is done: the same call goes on after a kill. Each output
has a lease meanwhile (see ``lease``), so that no two calls write to one at once.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch

from serengeti_etl.catalog.camtrap_dp.stream import STREAMED_FILES
from serengeti_etl.convert.fetch import fetch_in_order
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.errors import ConfigError, ImageError, require
from serengeti_etl.export import camtrap_dp_settings
from serengeti_etl.lease import hold, lease_file
from serengeti_etl.predict.camtrap_dp import camtrap_dp_output
from serengeti_etl.predict.exif_time import exif_time
from serengeti_etl.predict.journal import Journal
from serengeti_etl.predict.megadetector import megadetector_output
from serengeti_etl.predict.photographs import Photograph, Photographs, Source
from serengeti_etl.predict.rows import (
    PredictedImage,
    PredictedSequence,
    image_schema,
    image_table,
    sequence_schema,
    sequence_table,
)
from serengeti_etl.predict.scores import BATCH_SIZE, Content, predict_contents
from serengeti_etl.predict.sequences import Sequencer, together
from serengeti_etl.predict.served import ModelConfig, ServedModel
from serengeti_etl.predict.tables import TABLES
from serengeti_etl.predict.tuned import read_to_serve
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import weights_sha256

if TYPE_CHECKING:
    import datetime as dt

FORMATS = ("csv", "parquet", "megadetector", "camtrap_dp")

PART_SIZE = 512
"""Photographs that are written at once."""

_BY_SUFFIX = {".csv": "csv", ".parquet": "parquet", ".json": "megadetector"}

ImageSink = Callable[[Sequence[PredictedImage]], object]
SequenceSink = Callable[[Sequence[PredictedSequence]], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictSettings:
    """What is written where.

    Attributes:
        output: file for a table or JSON of photographs, folder for a Camtrap DP.
        kind: one of ``FORMATS``; None tells it by the suffix of ``output``.
        sequences: file for a table of sequences, ``.csv`` or ``.parquet``; None for none.
        gap_seconds: where a list names no sequences, longest time between two frames of one.
        with_mirror: predict mirror images too, and take the mean; twice the work.
        is_tuned: sequences as the evaluation of the run tuned them; see ``predict.tuned``.
        place: what Camtrap DP demands beside, as of ``export.write_labels``.
        batch_size: photographs per batch; it decides nothing but memory.
        device: a torch device; ``auto`` takes a GPU if there is one.
    """

    output: str
    kind: str | None = None
    sequences: str | None = None
    gap_seconds: float = 5.0
    with_mirror: bool = False
    is_tuned: bool = False
    place: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = BATCH_SIZE
    device: str = "auto"

    def __post_init__(self) -> None:
        require(self.gap_seconds > 0, "gap_seconds", self.gap_seconds, "positive")
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        suffixes = tuple(_BY_SUFFIX)
        is_clear = self.kind in FORMATS or (self.kind is None and self.output.endswith(suffixes))
        require(is_clear, "output", self.output, f"a file ending in {suffixes}, or give a format")
        name = self.sequences
        is_table = name is None or name.endswith((".csv", ".parquet"))
        require(is_table, "sequences", name, "a file ending in .csv or .parquet")
        require(name != self.output, "sequences", name, "another file than the output")
        has_use = name is not None or not self.is_tuned
        require(has_use, "sequences", name, "a file: it is sequences that are tuned")

    @property
    def format(self) -> str:
        """One of ``FORMATS``."""
        return self.kind or _kind_of(self.output)

    @property
    def places(self) -> tuple[tuple[Store, str], ...]:
        """Each output: the folder, and the name of the file in it; "" for all of the folder."""
        is_folder = self.format == "camtrap_dp"
        first = (Store(url=self.output), "") if is_folder else _file(self.output)
        return (first,) if self.sequences is None else (first, _file(self.sequences))

    @property
    def part_size(self) -> int:
        """Photographs that are written at once: whole batches, so that none is cut by a kill."""
        return self.batch_size * max(1, PART_SIZE // self.batch_size)

    @property
    def torch_device(self) -> torch.device:
        """The device to work on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


@dataclass(kw_only=True, slots=True)
class PredictionReport:
    """What came of it, also while it works.

    Attributes:
        num_photographs: to predict.
        num_done: predicted or failed.
        num_ignored: files of the folder that are no photographs by their name.
        num_before: of those done, predicted before the call, which goes on where one was stopped.
        failures: photographs that could not be read, by reason.
        examples: up to three of those, as ``file: reason``.
        categories: readable photographs by likeliest category.
        warning: what is not as it was in training; "" if all is.
    """

    num_photographs: int
    num_ignored: int
    warning: str
    num_done: int = 0
    num_before: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    categories: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Sequence[PredictedImage], classes: Sequence[str]) -> None:
        """Count some more."""
        self.num_done += len(rows)
        for row in rows:
            if row.failure is not None:
                self.failures[row.failure.reason] += 1
                self.examples += [f"{row.file_name}: {row.failure}"] * (len(self.examples) < 3)  # noqa: PLR2004
            elif row.probabilities_C is not None:
                self.categories[classes[int(row.probabilities_C.argmax())]] += 1


def predict_photographs(
    model_url: str,
    source: Source,
    settings: PredictSettings,
    on_progress: Callable[[PredictionReport], None] = lambda _: None,
) -> PredictionReport:
    """Predict the photographs of ``source`` and write what comes out.

    Args:
        model_url: as of ``read_model``.
        source: which photographs.
        settings: what is written where.
        on_progress: called after every part.

    Raises:
        ConfigError: there is no model, or no tuning of it; there are no photographs, or Camtrap DP
            lacks a place.
        CatalogError: the list of photographs cannot be read.
        OutputHeld: another process writes to one of the outputs.
        OSError: a store failed on every try; no photograph is blamed, and nothing is written but
            the journal of what is done.
    """
    model = read_to_serve(
        model_url,
        settings.torch_device,
        with_mirror=settings.with_mirror,
        is_tuned=settings.is_tuned,
    )
    with _held(settings) as check_held:
        photographs = source.find()
        report = PredictionReport(
            num_photographs=len(photographs),
            num_ignored=photographs.num_ignored,
            warning=model.config.encoder_warning,
        )
        on_progress(report)
        journal = _journal(model, photographs, settings)
        with _sink(settings, model.config, photographs) as write:
            rows = predicted(model, photographs, settings, journal)
            for part in _parts(rows, settings.part_size):
                check_held()
                write(part)
                report.add(part, model.config.classes)
                report.num_before = journal.num_read
                on_progress(report)
                # What is less than a part is the end of all.
                if len(part) == settings.part_size:
                    journal.add(part)
            check_held()  # before anything gets its name
        journal.remove()
    return report


@contextmanager
def _held(settings: PredictSettings) -> Iterator[Callable[[], None]]:
    """A function that raises once another process has taken one of the outputs over."""
    with ExitStack() as stack:
        leases = []
        for store, name in settings.places:
            leases.append(stack.enter_context(hold(store, name)))
            store.remove_partial(lease_file(name))

        def check() -> None:
            for lease in leases:
                lease.check()

        yield check


def _journal(model: ServedModel, photographs: Photographs, settings: PredictSettings) -> Journal:
    """The journal of this very prediction; unfinished files of a killed one are gone."""
    decides = {
        "model": model.config.to_json(),
        "weights": weights_sha256(model.network.network.state_dict()),
        "photographs": photographs.digest(),
        "gap_seconds": settings.gap_seconds,
        "batch_size": settings.batch_size,
        "device": settings.torch_device.type,
        "versions": [encoder_version(), torch.__version__],
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    for store, name in settings.places:
        for one in (name,) if name else STREAMED_FILES:
            store.remove_partial(one)
    store, name = settings.places[0]
    return Journal(store, f".{name}.predicted" if name else ".predicted", key)


def predicted(
    model: ServedModel, photographs: Photographs, settings: PredictSettings, journal: Journal
) -> Iterator[PredictedImage]:
    """Each photograph with its probabilities, or why there are none, in order.

    Args:
        model: that predicts.
        photographs: to predict.
        settings: how.
        journal: has the first ones, where an earlier call was stopped.

    Raises:
        OSError: the store failed on every try.
        SourceRefused: it refuses one photograph after the other.
    """
    sequencer = Sequencer(gap_seconds=settings.gap_seconds)
    for photograph, row in zip(photographs, journal.read(), strict=False):
        # Again, for what it says of the next one.
        sequencer.seq_id(row.file_name, photograph.seq_id, row.site, row.time)
        yield row
    left = photographs.after(journal.num_read)
    if len(left):
        yield from _predicted(model, left, settings, sequencer)


def _predicted(
    model: ServedModel, photographs: Photographs, settings: PredictSettings, sequencer: Sequencer
) -> Iterator[PredictedImage]:
    waiting: deque[tuple[Photograph, dt.datetime | None]] = deque()

    def noted() -> Iterator[Content]:
        contents = fetch_in_order(photographs.store, photographs.wanted)
        for photograph, content in zip(photographs, contents, strict=True):
            time = photograph.time
            if time is None and isinstance(content, bytes):
                time = exif_time(content)
            waiting.append((photograph, time))
            yield content

    for outcome in predict_contents(model, noted(), settings.batch_size):
        photograph, time = waiting.popleft()
        name, site = photograph.file_name, photograph.site
        yield PredictedImage(
            file_name=name,
            seq_id=sequencer.seq_id(name, photograph.seq_id, site, time),
            site=site,
            time=time,
            probabilities_C=None if isinstance(outcome, ImageError) else outcome,
            failure=outcome if isinstance(outcome, ImageError) else None,
        )


def _parts(rows: Iterator[PredictedImage], size: int) -> Iterator[list[PredictedImage]]:
    part: list[PredictedImage] = []
    for row in rows:
        part.append(row)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


class _Sequences:
    """Frames gathered until the next sequence begins."""

    def __init__(self, write: SequenceSink, config: ModelConfig) -> None:
        self._write, self._config = write, config
        self._open: list[PredictedImage] = []

    def add(self, rows: Sequence[PredictedImage]) -> None:
        """Take some photographs; write the sequences that have ended."""
        groups = [list(group) for _, group in groupby([*self._open, *rows], lambda r: r.seq_id)]
        self._open = groups.pop()
        self._write([self._sequence(frames) for frames in groups])

    def end(self) -> None:
        """Write the last one."""
        self._write([self._sequence(self._open)] if self._open else [])

    def _sequence(self, frames: Sequence[PredictedImage]) -> PredictedSequence:
        good = [row.probabilities_C for row in frames if row.probabilities_C is not None]
        return PredictedSequence(
            seq_id=frames[0].seq_id,
            num_images=len(frames),
            num_failed=len(frames) - len(good),
            probabilities_C=together(good, self._config) if good else None,
        )


@contextmanager
def _sink(
    settings: PredictSettings, config: ModelConfig, photographs: Photographs
) -> Iterator[ImageSink]:
    """A function that writes some photographs, and the sequences that have ended, everywhere."""
    with (
        _image_sink(settings, config, photographs) as write_images,
        _sequence_sink(settings, config.classes) as write_sequences,
    ):
        sequences = _Sequences(write_sequences, config)

        def write(rows: Sequence[PredictedImage]) -> None:
            write_images(rows)
            sequences.add(rows)

        yield write
        sequences.end()


def _image_sink(
    settings: PredictSettings, config: ModelConfig, photographs: Photographs
) -> AbstractContextManager[ImageSink]:
    if settings.format == "megadetector":
        store, name = _file(settings.output)
        return megadetector_output(store, name, config)
    if settings.format == "camtrap_dp":
        place = camtrap_dp_settings("predictions", config.data.get("licence", ""), settings.place)
        for site in {photograph.site for photograph in photographs}:
            place.place(site)  # now, not when all photographs are predicted
        names = photographs.rows["file_name"].combine_chunks()
        return camtrap_dp_output(Store(url=settings.output), place, config.classes, names)
    return _table_sink(settings, config.classes)


@contextmanager
def _table_sink(settings: PredictSettings, classes: Sequence[str]) -> Iterator[ImageSink]:
    store, name = _file(settings.output)
    with TABLES[settings.format](store, name, image_schema(classes)) as append:
        yield lambda rows: append(image_table(rows, classes))


@contextmanager
def _sequence_sink(settings: PredictSettings, classes: Sequence[str]) -> Iterator[SequenceSink]:
    if settings.sequences is None:
        yield lambda _: None
        return
    store, name = _file(settings.sequences)
    with TABLES[_kind_of(name)](store, name, sequence_schema(classes)) as append:
        yield lambda rows: append(sequence_table(rows, classes))


def _kind_of(name: str) -> str:
    return next(kind for suffix, kind in _BY_SUFFIX.items() if name.endswith(suffix))


def _file(url: str) -> tuple[Store, str]:
    """The folder of a file, and its name there."""
    folder, _, name = url.rpartition("/")
    if not name:
        raise ConfigError(f"output is {url!r}, but it must name a file")
    return Store(url=folder or ("/" if url.startswith("/") else ".")), name
