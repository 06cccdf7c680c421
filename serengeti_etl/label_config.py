"""Settings for labels: what a CSV's columns mean, which images are kept, and how they are split."""

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from serengeti_etl.errors import require

EMPTY = "empty"
"""Category of an image, or of a whole sequence, with nothing to see on it."""

SharedSites = Literal["refuse", "exclude", "allow"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvColumns:
    """Which column of a flat CSV says what; None where the file has no such column.

    Attributes:
        file_name: path of the photograph below the pipeline's ``images``, or its full url. Several
            columns, in order, are the frames of the row's sequence.
        label: category; several in one cell are joined by ``label_separator``.
        site: where the camera stood.
        seq_id: sequence; None makes sequences from site and time.
        frame_num: position in the sequence, from 1.
        datetime: date and time, as ``datetime_format`` says.
        season: season.
        image_id: the image's own id; None takes the file name.
        count: number of animals, or a bin such as ``11-50``.
        given_split: ``train``, ``val`` or another split, for ``ColumnSplit``.
        content_hash: digest of the photograph's bytes.
        label_separator: between several categories in one cell.
        empty_label: how the file writes "nothing to see"; becomes ``empty``.
        datetime_format: such as ``%m/%d/%y %H:%M``; None means ISO.
    """

    file_name: str | tuple[str, ...] = "file_name"
    label: str = "label"
    site: str | None = "site"
    seq_id: str | None = "seq_id"
    frame_num: str | None = "frame_num"
    datetime: str | None = "datetime"
    season: str | None = None
    image_id: str | None = None
    count: str | None = None
    given_split: str | None = None
    content_hash: str | None = None
    label_separator: str = "|"
    empty_label: str = "empty"
    datetime_format: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.file_name), "file_name", self.file_name, "a column, or several")
        require(bool(self.label_separator), "label_separator", self.label_separator, "not empty")

    @property
    def file_names(self) -> tuple[str, ...]:
        """The columns of photographs, one per frame."""
        return (self.file_name,) if isinstance(self.file_name, str) else self.file_name


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Which images and categories of a label file go on. Everything left out is counted by rule.

    Attributes:
        rename: new names of categories; two that get one name are merged. Comes before the rest.
        drop: images of these categories are left out whole: neither fetched nor put in a shard.
        keep: only these categories; others are struck from an image's labels, and an image that
            has no other is left out. None keeps all.
        seasons: only images of these; None takes all.
        sites: only images of these; None takes all.
        only_labelled: leave out images of which nothing is said. False keeps them without labels,
            for prediction.
        contradictions: what becomes of an image that is ``empty`` and something else: ``exclude``
            or ``keep``.
        max_empty_share: largest share of ``empty`` among the sequences of train, above 0 and below
            1: the rest are left out by a keyed draw, and dataset.json keeps the true shares, by
            which probabilities can be corrected. Val is never thinned. None leaves all.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ("human",)
    keep: tuple[str, ...] | None = None
    seasons: tuple[str, ...] | None = None
    sites: tuple[str, ...] | None = None
    only_labelled: bool = True
    contradictions: Literal["exclude", "keep"] = "exclude"
    max_empty_share: float | None = None

    def __post_init__(self) -> None:
        for name in ("drop", "keep", "seasons", "sites"):
            value = getattr(self, name)
            is_names = value is None or (isinstance(value, tuple) and all(value))
            require(is_names, f"rules.{name}", value, 'a tuple of names, such as ("S1", "S2")')
            require(value != () or name == "drop", f"rules.{name}", value, "None or some names")
        require(all(self.rename.values()), "rules.rename", dict(self.rename), "old to new names")
        both = set(self.drop) & set(self.keep or ())
        require(not both, "rules.keep", self.keep, f"without {sorted(both)}, which are dropped")
        known = ("exclude", "keep")
        got = self.contradictions
        require(got in known, "rules.contradictions", got, f"one of {known}")
        share = self.max_empty_share
        is_share = share is None or 0 < share < 1
        require(is_share, "rules.max_empty_share", share, "between 0 and 1, or None")


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteListSplit:
    """Sites given by name, as in the published split of Snapshot Serengeti.

    Attributes:
        url: JSON with ``{"splits": {"train": [...], "val": [...]}}``; relative to the pipeline's
            ``source``, or a full url. Images at sites in no list are excluded and counted.
    """

    url: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FractionSplit:
    """A seeded share of the images becomes ``val``, by whole sites (or sequences).

    Attributes:
        val_fraction: share of the images in ``val``, above 0 and below 1, reached as closely as
            whole sites allow; at least one site.
        by: ``"site"``; or ``"sequence"`` for label files that name no sites.
        stratify: choose the sites so that each category has about that share of its images in
            ``val``; False takes that share of the sites, whatever is on them.
        seed: another seed picks other sites.
    """

    val_fraction: float = 0.2
    by: Literal["site", "sequence"] = "site"
    stratify: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        require(0 < self.val_fraction < 1, "val_fraction", self.val_fraction, "between 0 and 1")
        require(self.by in ("site", "sequence"), "by", self.by, '"site" or "sequence"')
        require(self.seed >= 0, "split.seed", self.seed, "zero or positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeasonSplit:
    """Whole seasons: other years of, mostly, the same cameras.

    Attributes:
        val: seasons of ``val``.
        train: seasons of ``train``; None means all others.
        shared_sites: what to do where a site is on both sides: ``refuse`` the split; ``exclude``
            its images from train; or ``allow`` it, and val tells nothing of new places.
    """

    val: tuple[str, ...]
    train: tuple[str, ...] | None = None
    shared_sites: SharedSites = "refuse"

    def __post_init__(self) -> None:
        require(bool(self.val) and isinstance(self.val, tuple), "val", self.val, "some seasons")
        both = set(self.val) & set(self.train or ())
        require(not both, "train", self.train, f"without {sorted(both)}, which are in val")
        _require_shared(self.shared_sites)


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeSplit:
    """Before and after a day; a sequence belongs where its first frame does.

    Attributes:
        val_from: ISO day, or day and time, from which on images are in ``val``.
        train_until: up to which (exclusive) they are in ``train``; None means ``val_from``. What
            lies between, or has no time, is excluded and counted.
        shared_sites: as in ``SeasonSplit``.
    """

    val_from: str
    train_until: str | None = None
    shared_sites: SharedSites = "refuse"

    def __post_init__(self) -> None:
        for name in ("val_from", "train_until"):
            value = getattr(self, name)
            is_day = value is None or re.match(r"\d{4}-\d\d-\d\d", value) is not None
            require(is_day and _is_moment(value), name, value, "an ISO day, such as 2013-07-01")
        until = self.train_until or self.val_from
        require(until <= self.val_from, "train_until", until, f"not after {self.val_from}")
        _require_shared(self.shared_sites)


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnSplit:
    """The splits that the label file itself gives (``CsvColumns.given_split`` and the like).

    Attributes:
        shared_sites: as in ``SeasonSplit``.
    """

    shared_sites: SharedSites = "refuse"

    def __post_init__(self) -> None:
        _require_shared(self.shared_sites)


Split = SiteListSplit | FractionSplit | SeasonSplit | TimeSplit | ColumnSplit


def _is_moment(text: str | None) -> bool:
    if text is None:
        return True
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _require_shared(got: str) -> None:
    known = ("refuse", "exclude", "allow")
    require(got in known, "shared_sites", got, f"one of {known}")
