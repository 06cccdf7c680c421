"""Which samples of a split are taken, and how often, without making other shards."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow.compute as pc

from serengeti_etl.errors import require

Frames = Literal["all", "one", "sequence"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Selection:
    """Which samples are taken, and how often.

    Attributes:
        where: a pyarrow expression on any column of the index, such as
            ``pc.field("season") == "S1"``; None takes every image.
        frames: ``all``: every image is a sample. ``one``: every sequence is one, shown by one of
            its frames, another in each epoch; without augmentation its first. ``sequence``: every
            sequence is one, with its frames side by side.
        max_frames: frames of a sequence that ``sequence`` takes, the first ones.
        fraction: share of the sequences, above 0, at most 1; a smaller share is part of a larger.
        weights: how often a sample with a category comes, against others; a sample of several
            takes its largest; categories that are not named have 1. ``balanced`` weighs each
            category by one through its number of samples. None takes every sample once.
        shares: of several datasets, the share of the samples that each gives; None takes each
            dataset's samples as often as any other's.
    """

    where: pc.Expression | None = field(default=None, compare=False)
    frames: Frames = "all"
    max_frames: int = 3
    fraction: float = 1.0
    weights: Mapping[str, float] | Literal["balanced"] | None = None
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        allowed = ("all", "one", "sequence")
        require(self.frames in allowed, "frames", self.frames, f"one of {', '.join(allowed)}")
        require(self.max_frames > 0, "max_frames", self.max_frames, "positive")
        require(0 < self.fraction <= 1, "fraction", self.fraction, "above 0, at most 1")
        if isinstance(self.weights, Mapping):
            for name, weight in self.weights.items():
                require(weight >= 0, f"the weight of {name}", weight, "zero or positive")
        else:
            known = self.weights in (None, "balanced")
            require(known, "weights", self.weights, "a mapping of categories, 'balanced' or None")
        for share in self.shares or ():
            require(share > 0, "shares", self.shares, "positive numbers")

    @property
    def is_weighted(self) -> bool:
        """True when some samples come more often than others."""
        return self.weights is not None or self.shares is not None

    @property
    def is_partial(self) -> bool:
        """True when some images of the split are never taken."""
        return self.where is not None or self.fraction < 1

    @property
    def is_everything(self) -> bool:
        """True when every image of the split is a sample, once."""
        return self.frames == "all" and not self.is_partial and not self.is_weighted

    def fingerprint(self, taken: bytes) -> str:
        """Names the selection in cursors, hexadecimal; "" if it is everything.

        Args:
            taken: bytes that tell which images are taken, so that two expressions that take the
                same images are the same selection.
        """
        if self.is_everything:
            return ""
        weights = self.weights
        plain = sorted(weights.items()) if isinstance(weights, Mapping) else weights
        what = f"{self.frames} {self.max_frames} {plain} {self.shares}"
        return hashlib.blake2b(what.encode() + taken, digest_size=16).hexdigest()


EVERYTHING = Selection()
"""Every image of the split, once an epoch."""
