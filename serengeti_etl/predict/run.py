"""Prediction from end to end: photographs are read ahead, prepared, predicted, written in parts.

Nothing but file names grows with their number. The outputs get their names when they are whole, and
until then a journal beside them keeps what is done: the same call goes on after a kill. Each output
has a lease meanwhile (see ``lease``), so that no two calls write to one at once.
"""

import hashlib
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from serengeti_etl.catalog.camtrap_dp.stream import STREAMED_FILES
from serengeti_etl.convert.fetch import fetch_in_order
from serengeti_etl.convert.resize import encoder_version
from serengeti_etl.errors import ImageError
from serengeti_etl.lease import hold, lease_file
from serengeti_etl.predict.exif_time import exif_time
from serengeti_etl.predict.journal import Journal
from serengeti_etl.predict.photographs import Photograph, Photographs, Source
from serengeti_etl.predict.rows import (
    PredictedImage,
)
from serengeti_etl.predict.scores import Content, predict_contents
from serengeti_etl.predict.sequences import Sequencer
from serengeti_etl.predict.served import ServedModel
from serengeti_etl.predict.settings import PredictSettings
from serengeti_etl.predict.sinks import open_sink
from serengeti_etl.predict.tuned import read_to_serve
from serengeti_etl.train.checkpoint import weights_sha256

if TYPE_CHECKING:
    import datetime as dt


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
        with open_sink(settings, model.config, photographs) as write:
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
