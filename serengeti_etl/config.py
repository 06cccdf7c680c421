"""Settings: what a pipeline file says, checked when it is built.

Every class here is frozen and refuses nonsense on construction, on the driver, so that no worker
discovers at hour three what was wrong at second one.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from serengeti_etl.errors import require
from serengeti_etl.label_config import CsvColumns, FractionSplit, Rules, Split

MIB = 1024 * 1024

FORMATS = ("coco", "hakuna", "dryad", "camtrap_dp", "folders", "csv")
"""Formats of label files."""

COMPRESSED_ARCHIVE = re.compile(r"(?i)\.(tar\.\w+|t(gz|bz2?|xz|zst|lz)|7z|rar)$")
"""Ends the name of an archive that is compressed as a whole, so that no part can be read alone."""

ARCHIVE_PIECE = re.compile(r"(?i)\.(z\d\d|zip\.\d\d\d)$")
"""Ends the name of a piece of a split zip."""

_ARCHIVES = (re.compile(r"(?i)\.(zip|tar)$"), COMPRESSED_ARCHIVE, ARCHIVE_PIECE)


def without_query(name: str) -> str:
    """A name without what a signed web address has behind its ``?``: it ends as its file does."""
    return name.partition("?")[0] if name.startswith(("http://", "https://")) else name


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizeSettings:
    """How one photograph becomes the JPEG in a shard. Photographs are never enlarged.

    Attributes:
        size: ``"512"``: the longest side becomes 512 px, aspect kept. ``"512x384"``: exactly
            512 px wide and 384 px high, aspect given up, as the winners of the competition
            prepared theirs; a side that is shorter than the box stays as it is. ``"short256"``:
            the shortest side becomes 256 px, aspect kept.
        quality: JPEG quality, 1–100.
        subsampling: chroma subsampling of the output, ``"4:2:0"`` or ``"4:4:4"``.
        max_pixels: photographs that declare more pixels (width · height) are rejected unread.
        min_side: photographs with a side shorter than this many px are rejected.
        decode_sizes: other sizes that the scaled decode must suit too, so that one decode serves
            them all; () for none. ``SeasonPipeline.of_size`` sets it.
    """

    size: str = "512"
    quality: int = 85
    subsampling: Literal["4:2:0", "4:4:4"] = "4:2:0"
    max_pixels: int = 120_000_000
    min_side: int = 16
    decode_sizes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_size("size", self.size)
        for size in self.decode_sizes:
            _require_size("decode_sizes", size)
        require(1 <= self.quality <= 100, "quality", self.quality, "from 1 to 100")  # noqa: PLR2004
        known = ("4:2:0", "4:4:4")
        require(self.subsampling in known, "subsampling", self.subsampling, f"one of {known}")
        require(self.max_pixels > 0, "max_pixels", self.max_pixels, "positive")
        require(self.min_side > 0, "min_side", self.min_side, "positive")

    @property
    def box(self) -> tuple[int, int] | None:
        """Width and height in px of an exact box, or None when one side is set."""
        if "x" not in self.size:
            return None
        width, height = _sides(self.size)
        return width, height

    @property
    def is_shortest_side(self) -> bool:
        """True when ``side`` is that of the shortest side."""
        return self.size.startswith("short")

    @property
    def side(self) -> int:
        """The side that is set, in px; of a box, the longer one."""
        return max(_sides(self.size))

    @property
    def typical_pixels(self) -> int:
        """Pixels of the result for a photograph of 4:3, as camera traps take them."""
        if self.box is not None:
            return self.box[0] * self.box[1]
        return self.side * self.side * 4 // 3 if self.is_shortest_side else self.side**2 * 3 // 4

    @property
    def typical_bytes(self) -> int:
        """Bytes of a tar that the plan counts for one such result, its sidecar included."""
        return int(self.typical_pixels * _BYTES_PER_PIXEL) + 2048

    def deciding(self) -> dict[str, Any]:
        """All settings by name, as they enter fingerprints."""
        settings = dataclasses.asdict(self)
        if not self.decode_sizes:
            # Younger than the first datasets, which are continued as long as nobody sets it.
            del settings["decode_sizes"]
        return settings


_BYTES_PER_PIXEL = 0.35
"""Of a JPEG at quality 85: 0.30 measured on Serengeti frames, and the sidecar and tar headers."""


def _require_size(field_name: str, size: str) -> None:
    is_size = re.fullmatch(r"(short)?\d+|\d+x\d+", size) is not None
    require(
        is_size and all(16 <= side <= 8192 for side in _sides(size)),  # noqa: PLR2004
        field_name,
        size,
        'a longest side such as "512", a box such as "512x384" or a shortest side such as '
        '"short256", 16 to 8192 px',
    )


def _sides(size: str) -> tuple[int, ...]:
    """The sides that a size names, in px."""
    return tuple(int(side) for side in size.removeprefix("short").split("x"))


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

    def num_samples(self, resize: ResizeSettings) -> int:
        """Most images that one shard of such photographs holds: the smaller of both limits."""
        return max(1, min(self.max_samples, self.target_bytes // resize.typical_bytes))


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonPipeline:
    """What becomes of one season; never where it runs.

    Attributes:
        name: name of the dataset, in letters, digits, ``-`` and ``_``.
        source: folder or url that ``labels`` and ``images`` are relative to; ``--source`` replaces
            it, so that a mirror or a local copy gives the same bytes.
        labels: label file or folder below ``source``, or a full url.
        images: folder of the photographs below ``source``, or a full url; or a zip or tar archive
            that holds them, or several as a tuple. Archives are read where they lie.
        labels_format: ``coco``, ``hakuna``, ``dryad``, ``camtrap_dp``, ``folders`` or ``csv``;
            None recognises it from the file.
        columns: what the columns of a flat CSV are called; None recognises common names.
        sequence_gap_seconds: where the label file names no sequences, images of one site are one
            sequence while no two that follow each other lie further apart; at least 1.
        rules: which images and categories are kept.
        split: how images are divided into train and val.
        resize: how a photograph becomes smaller.
        sizes: sizes to write in one pass instead of ``resize.size``, two at least: each photograph
            is read and decoded once, and each size is a whole dataset in the folder of that name
            below the output, with the same images in the same shards; () writes one size.
        shards: how samples are cut into shards.
        classes: categories in order of the model's outputs; None takes all that occur, sorted.
        max_sequences: keep only this many sequences, chosen by ``shards.seed``; None keeps all.
        max_reject_share: share of the planned images, 0–1, above which the run stops.
        max_rejects: number of rejects above which it stops as well; None for no such limit.
        max_shard_reject_share: share of one shard's images, 0–1, above which that shard fails and
            is made again by the next run, instead of committing its rejects: so looks a store that
            answers nonsense for a while, or a disk that came loose. Every shard is a random sample
            of its split, so that of a season with a tenth of its photographs bad, not one shard in
            a million has half of them bad. That holds from 20 images on: smaller shards are let be.
        storage_options: how to open ``source``, such as ``{"anon": True}`` for a public bucket:
            by the names of s3fs, gcsfs and adlfs, or obstore's own (``buckets.options``), and
            ``check_etag`` and ``check_head`` (``buckets.bucket``).
        licence: licence of the photographs, carried into dataset.json.
        citation: how to cite them, likewise.
    """

    name: str
    source: str
    labels: str
    images: str | tuple[str, ...] = ""
    labels_format: str | None = None
    columns: CsvColumns | None = None
    sequence_gap_seconds: float = 5.0
    rules: Rules = field(default_factory=Rules)
    split: Split = field(default_factory=FractionSplit)
    resize: ResizeSettings = field(default_factory=ResizeSettings)
    sizes: tuple[str, ...] = ()
    shards: ShardSettings = field(default_factory=ShardSettings)
    classes: tuple[str, ...] | None = None
    max_sequences: int | None = None
    max_reject_share: float = 0.02
    max_rejects: int | None = None
    max_shard_reject_share: float = 0.5
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        is_plain = re.fullmatch(r"[A-Za-z0-9_-]+", self.name) is not None
        require(is_plain, "name", self.name, "letters, digits, - and _")
        require(bool(self.source), "source", self.source, "a folder or a url")
        require(bool(self.labels), "labels", self.labels, "a label file below source")
        kind = self.labels_format
        require(kind in (None, *FORMATS), "labels_format", kind, f"None or one of {FORMATS}")
        gap = self.sequence_gap_seconds
        require(gap >= 1, "sequence_gap_seconds", gap, "at least 1")
        for name in ("max_reject_share", "max_shard_reject_share"):
            share = getattr(self, name)
            require(0 <= share <= 1, name, share, "a share from 0 to 1")
        count = self.max_rejects
        require(count is None or count >= 0, "max_rejects", count, "zero, positive or None")
        limit = self.max_sequences
        require(limit is None or limit > 0, "max_sequences", limit, "positive or None")
        names = self.classes or ()
        require(len(set(names)) == len(names), "classes", names, "without repeats")
        if self.sizes:
            self._check_sizes()

    def _check_sizes(self) -> None:
        sizes, resize = self.sizes, self.resize
        is_tuple = isinstance(sizes, tuple) and len(sizes) > 1
        require(is_tuple, "sizes", sizes, "a tuple of two at least; one size goes to resize.size")
        for size in sizes:
            _require_size("sizes", size)
        require(len(set(sizes)) == len(sizes), "sizes", sizes, "without repeats")
        both = "left out where sizes says what to write"
        is_default = resize.size == ResizeSettings().size
        require(is_default, "resize.size", resize.size, both)
        require(not resize.decode_sizes, "resize.decode_sizes", resize.decode_sizes, both)

    @property
    def archives(self) -> tuple[str, ...]:
        """The archives that hold the photographs; () where each is a file of its own.

        Those that cannot be read by parts are among them, and refused when they are listed.
        """
        if isinstance(self.images, tuple):
            return self.images
        name = without_query(self.images)
        return (self.images,) if any(kind.search(name) for kind in _ARCHIVES) else ()

    @property
    def images_folder(self) -> str:
        """The folder of the photographs; "" where they lie in archives."""
        return "" if isinstance(self.images, tuple) or self.archives else self.images

    def of_size(self, size: str) -> "SeasonPipeline":
        """The pipeline that makes alone the dataset which this one makes of one of its ``sizes``.

        All of them decode for the largest target and cut shards for the largest photographs, so
        they share the decode and the plan.

        Raises:
            ConfigError: ``size`` is not one of them.
        """
        require(size in self.sizes, "size", size, f"one of {self.sizes}")
        # Sorted: in which order they were given decides no byte.
        resize = replace(self.resize, size=size, decode_sizes=tuple(sorted(self.sizes)))
        num_samples = min(
            self.shards.num_samples(replace(resize, size=other)) for other in self.sizes
        )
        shards = replace(self.shards, max_samples=num_samples)
        return replace(self, sizes=(), resize=resize, shards=shards)

    def by_folder(self) -> "dict[str, SeasonPipeline]":
        """The pipelines of one size each by the folder of their dataset below the output.

        Of a pipeline without ``sizes`` that is itself, in the output itself, ``""``.
        """
        return {size: self.of_size(size) for size in self.sizes} or {"": self}

    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide output bytes, as plain values; ``source`` is not among them."""
        settings = {
            "name": self.name,
            "split": {"kind": type(self.split).__name__} | dataclasses.asdict(self.split),
            "rules": dataclasses.asdict(self.rules),
            "resize": self.resize.deciding(),
            "shards": dataclasses.asdict(self.shards),
            "classes": self.classes or None,
            "max_sequences": self.max_sequences,
            "licence": self.licence,
            "citation": self.citation,
        }
        # As JSON gives them back, so that they equal those of a plan.json: lists, not tuples.
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSpec:
    """Where tasks run: a Dask cluster class and what to build it with.

    A scheduler that somebody else started needs no spec, only its address. ``tcp://…`` is not
    encrypted; ``tls://…`` is, with the certificates of Dask's own configuration: its keys
    ``distributed.comm.tls``, in ``~/.config/dask/*.yaml`` or in ``DASK_…`` variables.

    Attributes:
        cluster: import path ``"module:Class"`` of any class with Dask's cluster interface.
        options: keyword arguments for that class.
        num_workers: workers to ask for; None keeps what ``options`` start with.
        adaptive: fewest and most workers instead of ``num_workers``: Dask asks for as many of them
            as the work needs, and lets go of those that have none; None keeps a fixed number.
        is_secure: True encrypts what driver, scheduler and workers say to each other, by keys that
            are made for this cluster alone and handed to the class as ``security``; it must be a
            class that takes them. Needs the extra ``[tls]``.
    """

    cluster: str
    options: Mapping[str, Any] = field(default_factory=dict)
    num_workers: int | None = None
    adaptive: tuple[int, int] | None = None
    is_secure: bool = False

    def __post_init__(self) -> None:
        is_path = re.fullmatch(r"[\w.]+:\w+", self.cluster) is not None
        require(is_path, "cluster", self.cluster, '"module:Class", as "dask_jobqueue:SLURMCluster"')
        count = self.num_workers
        require(count is None or count > 0, "num_workers", count, "positive or None")
        if self.adaptive is not None:
            self._check_adaptive(self.adaptive)
        is_secure, is_said = self.is_secure, "security" in self.options
        allowed = "left out where options have security"
        require(not (is_secure and is_said), "is_secure", is_secure, allowed)

    def _check_adaptive(self, adaptive: tuple[int, int]) -> None:
        is_pair = isinstance(adaptive, tuple) and len(adaptive) == 2  # noqa: PLR2004
        is_range = is_pair and 0 <= adaptive[0] <= adaptive[1] > 0
        require(is_range, "adaptive", adaptive, "the fewest and the most workers, as (1, 50)")
        count = self.num_workers
        require(count is None, "num_workers", count, "None where adaptive says how many")

    @property
    def most_workers(self) -> int | None:
        """Workers that there may come to be; None if ``options`` alone say it."""
        return self.adaptive[1] if self.adaptive is not None else self.num_workers
