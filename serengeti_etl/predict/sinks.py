"""Where predicted photographs go, and their sequences: one function for all outputs of a call.

Each output gets its name when its context ends without an error.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from serengeti_etl.export import camtrap_dp_settings
from serengeti_etl.predict.camtrap_dp import camtrap_dp_output
from serengeti_etl.predict.gathered import Gathered
from serengeti_etl.predict.megadetector import megadetector_output
from serengeti_etl.predict.photographs import Photographs
from serengeti_etl.predict.rows import (
    PredictedImage,
    PredictedSequence,
    image_schema,
    image_table,
    sequence_schema,
    sequence_table,
)
from serengeti_etl.predict.sequences import together
from serengeti_etl.predict.served import ModelConfig
from serengeti_etl.predict.settings import PredictSettings, file_at, kind_of
from serengeti_etl.predict.tables import TABLES
from serengeti_etl.storage import Store

ImageSink = Callable[[Sequence[PredictedImage]], object]
SequenceSink = Callable[[Sequence[PredictedSequence]], object]


@contextmanager
def open_sink(
    settings: PredictSettings, config: ModelConfig, photographs: Photographs
) -> Iterator[ImageSink]:
    """A function that writes some photographs, and the sequences that have ended, everywhere."""
    with (
        _image_sink(settings, config, photographs) as write_images,
        _sequence_sink(settings, config.classes) as write_sequences,
    ):
        gathered = Gathered()

        def write(rows: Sequence[PredictedImage]) -> None:
            write_images(rows)
            write_sequences([_sequence(frames, config) for frames in gathered.add(rows)])

        yield write
        write_sequences([_sequence(frames, config) for frames in gathered.rest()])


def _image_sink(
    settings: PredictSettings, config: ModelConfig, photographs: Photographs
) -> AbstractContextManager[ImageSink]:
    if settings.format == "megadetector":
        store, name = file_at(settings.output)
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
    store, name = file_at(settings.output)
    with TABLES[settings.format](store, name, image_schema(classes)) as append:
        yield lambda rows: append(image_table(rows, classes))


@contextmanager
def _sequence_sink(settings: PredictSettings, classes: Sequence[str]) -> Iterator[SequenceSink]:
    if settings.sequences is None:
        yield lambda _: None
        return
    store, name = file_at(settings.sequences)
    with TABLES[kind_of(name)](store, name, sequence_schema(classes)) as append:
        yield lambda rows: append(sequence_table(rows, classes))


def _sequence(frames: Sequence[PredictedImage], config: ModelConfig) -> PredictedSequence:
    good = [row.probabilities_C for row in frames if row.probabilities_C is not None]
    return PredictedSequence(
        seq_id=frames[0].seq_id,
        num_images=len(frames),
        num_failed=len(frames) - len(good),
        probabilities_C=together(good, config) if good else None,
    )
