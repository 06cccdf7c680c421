"""What is predicted, how, and where the predictions go."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from serengeti_etl.errors import ConfigError, require
from serengeti_etl.predict.scores import BATCH_SIZE
from serengeti_etl.storage import Store

FORMATS = ("csv", "parquet", "megadetector", "camtrap_dp")

PART_SIZE = 512
"""Photographs that are written at once."""

_BY_SUFFIX = {".csv": "csv", ".parquet": "parquet", ".json": "megadetector"}


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
        return self.kind or kind_of(self.output)

    @property
    def places(self) -> tuple[tuple[Store, str], ...]:
        """Each output: the folder, and the name of the file in it; "" for all of the folder."""
        is_folder = self.format == "camtrap_dp"
        first = (Store(url=self.output), "") if is_folder else file_at(self.output)
        return (first,) if self.sequences is None else (first, file_at(self.sequences))

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


def kind_of(name: str) -> str:
    """The format of a file, by its suffix."""
    return next(kind for suffix, kind in _BY_SUFFIX.items() if name.endswith(suffix))


def file_at(url: str) -> tuple[Store, str]:
    """The folder of a file, and its name there."""
    folder, _, name = url.rpartition("/")
    if not name:
        raise ConfigError(f"output is {url!r}, but it must name a file")
    return Store(url=folder or ("/" if url.startswith("/") else ".")), name
