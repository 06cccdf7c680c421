"""Settings: what a pipeline file says, checked when it is built.

Every class here is frozen and refuses nonsense on construction, on the driver, so that no worker
discovers at hour three what was wrong at second one.
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from serengeti_etl.errors import ConfigError

MIB = 1024 * 1024

EMPTY = "empty"
"""Category of an image, or of a whole sequence, with nothing to see on it."""


def require(condition: bool, field_name: str, got: object, allowed: str) -> None:  # noqa: FBT001
    """Nothing, if ``condition`` holds.

    Raises:
        ConfigError: otherwise; names the field, what it got and what it may be.
    """
    if not condition:
        raise ConfigError(f"{field_name} is {got!r}, but it must be {allowed}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeSettings:
    """How one photograph becomes the JPEG in a shard. Photographs are never enlarged.

    Attributes:
        size: ``"512"``: the longest side becomes 512 px, aspect kept. ``"512x384"``: exactly
            512 px wide and 384 px high, aspect given up, as the winners of the competition
            prepared theirs; a side that is shorter than the box stays as it is.
        quality: JPEG quality, 1–100.
        subsampling: chroma subsampling of the output, ``"4:2:0"`` or ``"4:4:4"``.
        max_pixels: photographs that declare more pixels (width · height) are rejected unread.
        min_side: photographs with a side shorter than this many px are rejected.
    """

    size: str = "512"
    quality: int = 85
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    max_pixels: int = 120_000_000
    min_side: int = 16

    def __post_init__(self) -> None:
        allowed = 'a longest side such as "512" or a box such as "512x384", 16 to 8192 px'
        require(re.fullmatch(r"\d+(x\d+)?", self.size) is not None, "size", self.size, allowed)
        sides = [int(side) for side in self.size.split("x")]
        require(all(16 <= side <= 8192 for side in sides), "size", self.size, allowed)  # noqa: PLR2004
        require(1 <= self.quality <= 100, "quality", self.quality, "from 1 to 100")  # noqa: PLR2004
        known = ("4:2:0", "4:4:4")
        require(self.subsampling in known, "subsampling", self.subsampling, f"one of {known}")
        require(self.max_pixels > 0, "max_pixels", self.max_pixels, "positive")
        require(self.min_side > 0, "min_side", self.min_side, "positive")

    @property
    def box(self) -> tuple[int, int] | None:
        """Width and height in px of an exact box, or None when the longest side is set."""
        if "x" not in self.size:
            return None
        width, height = self.size.split("x")
        return int(width), int(height)

    @property
    def longest_side(self) -> int:
        """Longest side of any output, in px."""
        return max(int(side) for side in self.size.split("x"))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSettings:
    """How samples are cut into tar shards.

    Attributes:
        target_bytes: intended size of one tar, in bytes; the plan estimates 0.35 bytes per pixel.
        max_samples: no shard holds more images than this.
        seed: key of the permutation that mixes sequences over shards.
    """

    target_bytes: int = 64 * MIB
    max_samples: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.target_bytes > 0, "target_bytes", self.target_bytes, "positive")
        require(self.max_samples > 0, "max_samples", self.max_samples, "positive")
        require(self.seed >= 0, "shards.seed", self.seed, "zero or positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteListSplit:
    """Sites given by name, as in the published split of Snapshot Serengeti.

    Attributes:
        url: JSON with ``{"splits": {"train": [...], "val": [...]}}``; relative to the pipeline's
            ``source``, or a full url. Images at sites in neither list are excluded and counted.
    """

    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FractionSplit:
    """A seeded share of the sites (or, where none are known, of the sequences) becomes ``val``.

    Attributes:
        val_fraction: share of the sites in ``val``, above 0 and below 1; at least one.
        by: ``"site"``; or ``"sequence"`` for label files that name no sites.
        seed: another seed picks other sites.
    """

    val_fraction: float = 0.2
    by: Literal["site", "sequence"] = "site"
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.val_fraction < 1, "val_fraction", self.val_fraction, "between 0 and 1")
        require(self.by in ("site", "sequence"), "by", self.by, '"site" or "sequence"')
        require(self.seed >= 0, "split.seed", self.seed, "zero or positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvColumns:
    """Which column of a flat CSV says what; None where the file has no such column.

    Attributes:
        file_name: path of the photograph below the pipeline's ``images``.
        label: category; several in one cell are joined by ``label_separator``.
        site: where the camera stood.
        seq_id: sequence; None makes every image its own sequence.
        frame_num: position in the sequence, from 1.
        datetime: ISO date and time.
        season: season.
        label_separator: between several categories in one cell.
        empty_label: how the file writes "nothing to see"; becomes ``empty``.
    """

    file_name: str = "file_name"
    label: str = "label"
    site: str | None = "site"
    seq_id: str | None = "seq_id"
    frame_num: str | None = "frame_num"
    datetime: str | None = "datetime"
    season: str | None = None
    label_separator: str = "|"
    empty_label: str = "empty"


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonPipeline:
    """What becomes of one season; never where it runs.

    Attributes:
        name: name of the dataset, in letters, digits, ``-`` and ``_``.
        source: folder or url that ``labels`` and ``images`` are relative to; ``--source`` replaces
            it, so that a mirror or a local copy gives the same bytes.
        labels: label file below ``source``, or a full url.
        images: folder of the photographs below ``source``, or a full url.
        columns: set for a flat CSV; None means COCO (``.json`` or ``.json.zip``).
        split: how sites are divided into train and val.
        resize: how a photograph becomes smaller.
        shards: how samples are cut into shards.
        classes: categories in order of the model's outputs; None takes all that occur, sorted.
        withheld_categories: images of these are neither fetched nor put in a shard.
        max_sequences: keep only this many sequences, chosen by ``shards.seed``; None keeps all.
        max_reject_share: share of the planned images, 0–1, above which the run stops.
        storage_options: options for fsspec to open ``source`` with, such as ``{"anon": True}``.
        licence: licence of the photographs, carried into dataset.json.
        citation: how to cite them, likewise.
    """

    name: str
    source: str
    labels: str
    images: str = ""
    columns: CsvColumns | None = None
    split: SiteListSplit | FractionSplit = field(default_factory=FractionSplit)
    resize: ResizeSettings = field(default_factory=ResizeSettings)
    shards: ShardSettings = field(default_factory=ShardSettings)
    classes: tuple[str, ...] | None = None
    withheld_categories: tuple[str, ...] = ("human",)
    max_sequences: int | None = None
    max_reject_share: float = 0.02
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        is_plain = re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None
        require(is_plain, "name", self.name, "letters, digits, - and _")
        require(bool(self.source), "source", self.source, "a folder or a url")
        require(bool(self.labels), "labels", self.labels, "a label file below source")
        share = self.max_reject_share
        require(0 <= share <= 1, "max_reject_share", share, "a share from 0 to 1")
        limit = self.max_sequences
        require(limit is None or limit > 0, "max_sequences", limit, "positive or None")
        names = self.classes or ()
        require(len(set(names)) == len(names), "classes", names, "without repeats")

    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide output bytes, as plain values; ``source`` is not among them."""
        return {
            "name": self.name,
            "split": {"kind": type(self.split).__name__} | dataclasses.asdict(self.split),
            "resize": dataclasses.asdict(self.resize),
            "shards": dataclasses.asdict(self.shards),
            "classes": list(self.classes) if self.classes else None,
            "withheld_categories": sorted(self.withheld_categories),
            "max_sequences": self.max_sequences,
            "licence": self.licence,
            "citation": self.citation,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """Where tasks run: a Dask cluster class and what to build it with.

    Attributes:
        cluster: import path ``"module:Class"`` of any class with Dask's cluster interface.
        options: keyword arguments for that class.
        num_workers: workers to ask for; None keeps what ``options`` start with.
    """

    cluster: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_workers: int | None = None

    def __post_init__(self) -> None:
        is_path = re.fullmatch(r"[\w.]+:\w+", self.cluster) is not None
        require(is_path, "cluster", self.cluster, '"module:Class", as "dask_jobqueue:SLURMCluster"')
        count = self.num_workers
        require(count is None or count > 0, "num_workers", count, "positive or None")
