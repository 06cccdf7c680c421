"""A Camtrap DP written as its rows come: the bytes of ``write_camtrap_dp``, in bounded memory."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serengeti_etl.catalog.camtrap_dp.csv_lines import csv_header, csv_lines
from serengeti_etl.catalog.camtrap_dp.description import data_package
from serengeti_etl.catalog.camtrap_dp.frames import (
    deployments_of,
    deployments_table,
    frames_of,
    media_of,
    merged_deployments,
)
from serengeti_etl.catalog.camtrap_dp.observations import MADE_ID, Observations
from serengeti_etl.catalog.camtrap_dp.settings import CamtrapDpSettings
from serengeti_etl.catalog.camtrap_dp.words import DATA_PACKAGE
from serengeti_etl.catalog.camtrap_dp.writer import without_times
from serengeti_etl.storage import Store

STREAMED_FILES = ("media.csv", "observations.csv")
"""Of the package, those that a killed process leaves unfinished."""

Append = Callable[[pa.Table, pa.Table], None]

_UNSAID = ("image_id", "seq_id", "deploymentID", "eventStart", "eventEnd", "is_split")
"""Columns of frames that an observation of them needs."""


def can_keep_ids(image_ids: pa.Array) -> bool:
    """True where ids of annotations that begin with their image's id can be ids of observations."""
    is_made = pc.any(pc.starts_with(image_ids, MADE_ID)).as_py()
    return not is_made and pc.count_distinct(image_ids).as_py() == len(image_ids)


@contextmanager
def camtrap_dp_stream(
    output: Store, settings: CamtrapDpSettings, *, keeps_ids: bool
) -> Iterator[Append]:
    """A function that appends images to the package, which is there after the block.

    It takes rows of ``CATALOG_SCHEMA``, all of a sequence at once, and of ``ANNOTATION_SCHEMA``
    that speak of these images. Nothing grows with their number but the deployments: observations
    of images of which nobody says anything come last, and wait on the disk.

    Args:
        output: folder or bucket prefix.
        settings: what images do not know.
        keeps_ids: whether ids of annotations are those of observations; else these are made.

    Raises:
        CatalogError: no image has a date and time.
        ConfigError: a site has no coordinates. In both cases nothing is written.
    """
    with (
        output.create("media.csv") as media,
        output.create("observations.csv") as observations,
        TemporaryFile() as waiting,
    ):
        outputs = {"media": media, "observations": observations}
        stream = _Stream(outputs, waiting, Observations(keeps_ids=keeps_ids), settings)
        yield stream.append
        deployments = stream.end()
        lines = csv_lines("deployments", deployments)
        output.write("deployments.csv", csv_header("deployments") + b"".join(lines))
    output.write_json(DATA_PACKAGE, data_package(deployments, stream.observations, settings))


class _Stream:
    def __init__(
        self,
        outputs: Mapping[str, Callable[[bytes], object]],
        waiting: IO[bytes],
        observations: Observations,
        settings: CamtrapDpSettings,
    ) -> None:
        self.observations = observations
        self._outputs, self._settings, self._waiting = outputs, settings, waiting
        self._num_images = 0
        self._deployments: pa.Table | None = None
        self._unsaid: pa.RecordBatchStreamWriter | None = None
        for name, output in outputs.items():
            output(csv_header(name))

    def append(self, images: pa.Table, annotations: pa.Table) -> None:
        self._num_images += images.num_rows
        dated = images.filter(pc.is_valid(images["datetime"])).combine_chunks()
        if dated.num_rows == 0:
            return
        frames = frames_of(dated, self._settings.utc_offset)
        is_said = np.zeros(frames.num_rows, bool)
        for part in media_of(frames):
            self._write("media", part)
        if annotations.num_rows:
            self._write("observations", self.observations.said(annotations, frames, is_said))
        self._keep_unsaid(frames.filter(pa.array(~is_said)).select(_UNSAID))
        more, some = deployments_of(frames), self._deployments
        self._deployments = more if some is None else merged_deployments(some, more)

    def end(self) -> pa.Table:
        """Write what comes last; the table of deployments."""
        if self._deployments is None:
            raise without_times(self._num_images)
        deployments = deployments_table(self._deployments, self._settings)
        if self._unsaid is not None:
            self._unsaid.close()
            self._waiting.seek(0)
            for batch in pa.ipc.open_stream(self._waiting):
                frames = pa.Table.from_batches([batch])
                self._write("observations", self.observations.unsaid(frames))
        return deployments

    def _keep_unsaid(self, frames: pa.Table) -> None:
        if frames.num_rows:
            if self._unsaid is None:
                self._unsaid = pa.ipc.new_stream(self._waiting, frames.schema)
            self._unsaid.write_table(frames)

    def _write(self, name: str, table: pa.Table) -> None:
        for lines in csv_lines(name, table):
            self._outputs[name](lines)
