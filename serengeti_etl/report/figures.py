"""What the index of a dataset says, counted a few row groups at a time: memory stays the same."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.label_config import EMPTY
from serengeti_etl.report.samples import COLUMNS, Photograph, Samples, flat_labels, numbers_of

TRAIN = "train"
NUM_HOURS = 24

PER_CATEGORY, PER_SITE = 6, 3
"""Photographs that stand for each."""

_SIZES = ("width", "height", "source_width", "source_height", "source_num_bytes")

Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitFigures:
    """One split.

    Attributes:
        name: of it.
        num_shards: of it.
        num_images: in them.
        num_sequences: of these images.
        num_sites: that they are from.
        num_bytes: of the tars.
    """

    name: str
    num_shards: int
    num_images: int
    num_sequences: int
    num_sites: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteFigures:
    """One site.

    Attributes:
        name: of it; "" where the label file names none.
        splits: that its images are in.
        num_images: in shards.
        num_empty: of them, those with nothing to see.
        first: when the first was taken; None if no image has a date.
        last: likewise.
    """

    name: str
    splits: tuple[str, ...]
    num_images: int
    num_empty: int
    first: datetime | None
    last: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Resized:
    """How many photographs of one size came to which.

    Attributes:
        source: width and height in px of the photographs.
        result: of their JPEGs in the shards.
        num_images: of these two.
    """

    source: tuple[int, int]
    result: tuple[int, int]
    num_images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOrder:
    """What is needed to know of the training split how well its order mixes.

    Attributes:
        sites_N: number of the site of each image, in the order of the shards.
        starts_G: first image of each sequence.
    """

    sites_N: NDArray[np.int32]
    starts_G: Int64


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """All that is counted.

    Attributes:
        num_images: in shards.
        num_sequences: of them.
        splits: by name.
        categories: images of each category in each split.
        sites: the largest first.
        seasons: images of each, by name.
        hours: images with animals, and blank ones, by hour of the camera's clock; 24 of each.
        num_undated: images without date and time.
        num_early: images dated before 2000, as by a clock that was never set.
        source_num_bytes: of the photographs.
        num_bytes: of their JPEGs.
        sizes: the most frequent first.
        train: None without a training split.
        by_category: photographs that stand for each.
        by_site: likewise.
    """

    num_images: int
    num_sequences: int
    splits: tuple[SplitFigures, ...]
    categories: Mapping[str, Mapping[str, int]]
    sites: tuple[SiteFigures, ...]
    seasons: Mapping[str, int]
    hours: tuple[tuple[int, ...], tuple[int, ...]]
    num_undated: int
    num_early: int
    source_num_bytes: int
    num_bytes: int
    sizes: tuple[Resized, ...]
    train: TrainOrder | None
    by_category: Mapping[str, tuple[Photograph, ...]]
    by_site: Mapping[str, tuple[Photograph, ...]]


def count_figures(dataset: Dataset) -> Figures:
    """What the index of ``dataset`` says.

    Raises:
        DatasetError: the index is damaged or missing.
    """
    counting = _Counting()
    if dataset.splits:
        for table in dataset.index_tables(dataset.splits[0], (*COLUMNS, *_SIZES)):
            counting.add(_plain(table))
    return counting.figures(dataset)


def _plain(table: pa.Table) -> pa.Table:
    """Without dictionaries, which differ from one row group to the next."""
    names = [name for name in table.column_names if name != "labels"]
    plain = {name: table[name] for name in table.column_names}
    for name in names:
        if pa.types.is_dictionary(table[name].type):
            plain[name] = pc.cast(table[name], pa.string())
    return pa.table(plain)


class _Counting:
    """Sums over the tables so far."""

    def __init__(self) -> None:
        self.num_images = self.num_undated = self.num_early = 0
        self.source_num_bytes = self.num_bytes = 0
        self.categories: Counter[tuple[str, str]] = Counter()
        self.seasons: Counter[str] = Counter()
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.hours = np.zeros((2, NUM_HOURS), dtype=np.int64)
        self.places: list[pa.Table] = []
        self.sequences: dict[str, list[NDArray[np.uint64]]] = {}
        self.train = _Train()
        self.by_category, self.by_site = Samples(PER_CATEGORY), Samples(PER_SITE)

    def add(self, table: pa.Table) -> None:
        """Count the rows of one table."""
        labels, rows_M = flat_labels(table["labels"])
        is_empty_N = np.zeros(table.num_rows, dtype=bool)
        is_empty_N[rows_M[pc.equal(labels, EMPTY).to_numpy(zero_copy_only=False)]] = True
        self.num_images += table.num_rows
        self.num_bytes += pc.sum(table["num_bytes"]).as_py() or 0
        self.source_num_bytes += pc.sum(table["source_num_bytes"]).as_py() or 0
        self.seasons.update(_counted(table, ["season"], single=True))
        sides = ["source_width", "source_height", "width", "height"]
        self.sizes.update(_counted(table, sides))
        splits = table["split"].take(pa.array(rows_M))
        self.categories.update(
            _counted(pa.table({"category": labels, "split": splits}), ["category", "split"])
        )
        self._add_times(table["datetime"], is_empty_N)
        self._add_places(table, is_empty_N)
        self.train.add(table)
        self.by_category.add(table, labels, rows_M)
        sites = pa.concat_arrays(table["site"].chunks)
        self.by_site.add(table, sites, np.arange(table.num_rows))

    def _add_times(self, moments: pa.ChunkedArray, is_empty_N: NDArray[np.bool_]) -> None:
        hours_N = pc.fill_null(pc.hour(moments), -1).to_numpy()
        self.num_undated += int((hours_N < 0).sum())
        early = pc.less(pc.year(moments), 2000)
        self.num_early += pc.sum(early).as_py() or 0
        for row, mask_N in enumerate((~is_empty_N, is_empty_N)):
            counted = np.bincount(hours_N[mask_N & (hours_N >= 0)], minlength=NUM_HOURS)
            self.hours[row] += counted

    def _add_places(self, table: pa.Table, is_empty_N: NDArray[np.bool_]) -> None:
        with_empty = table.append_column("is_empty", pa.array(is_empty_N.astype(np.int64)))
        self.places.append(
            with_empty.group_by(["site", "split"], use_threads=False).aggregate(
                [
                    ("image_id", "count"),
                    ("is_empty", "sum"),
                    ("datetime", "min"),
                    ("datetime", "max"),
                ]
            )
        )
        for split in pc.unique(table["split"]).to_pylist():
            of_split = table["seq_id"].filter(pc.equal(table["split"], split))
            self.sequences.setdefault(split, []).append(numbers_of(pc.unique(of_split)))

    def figures(self, dataset: Dataset) -> Figures:
        """All of them."""
        sites = self._sites()
        sequences = {name: np.unique(np.concatenate(p)) for name, p in self.sequences.items()}
        everything = np.concatenate([np.empty(0, dtype=np.uint64), *sequences.values()])
        return Figures(
            num_images=self.num_images,
            num_sequences=len(np.unique(everything)),
            splits=tuple(_split(dataset, name, sequences, sites) for name in dataset.splits),
            categories=self._categories(dataset.classes),
            sites=sites,
            seasons=dict(sorted(self.seasons.items(), key=lambda one: _natural(one[0]))),
            hours=(tuple(self.hours[0].tolist()), tuple(self.hours[1].tolist())),
            num_undated=self.num_undated,
            num_early=self.num_early,
            source_num_bytes=self.source_num_bytes,
            num_bytes=self.num_bytes,
            sizes=tuple(
                Resized(source=sides[:2], result=sides[2:], num_images=count)  # type: ignore[arg-type]
                for sides, count in self.sizes.most_common()
            ),
            train=self.train.order(),
            by_category={name: self.by_category.of(name) for name in self._names(dataset.classes)},
            by_site={site.name: self.by_site.of(site.name) for site in sites},
        )

    def _names(self, classes: Sequence[str]) -> list[str]:
        """The classes in their order, then categories that are no class."""
        found = {category for category, _ in self.categories}
        return [*classes, *sorted(found - set(classes))]

    def _categories(self, classes: Sequence[str]) -> dict[str, dict[str, int]]:
        splits = sorted(self.sequences)
        return {
            name: {split: self.categories[name, split] for split in splits}
            for name in self._names(classes)
        }

    def _sites(self) -> tuple[SiteFigures, ...]:
        if not self.places:
            return ()
        together = pa.concat_tables(self.places).group_by(["site", "split"], use_threads=False)
        rows = together.aggregate(
            [
                *((f"{name}", "sum") for name in ("image_id_count", "is_empty_sum")),
                ("datetime_min", "min"),
                ("datetime_max", "max"),
            ]
        ).to_pylist()
        by_site: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_site.setdefault(row["site"], []).append(row)
        sites = [_site(name, found) for name, found in by_site.items()]
        return tuple(sorted(sites, key=lambda site: (-site.num_images, site.name)))


class _Train:
    """Site of each image of the training split, and where its sequences start."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._sites: list[NDArray[np.int32]] = []
        self._starts: list[Int64] = []
        self._num_images = 0
        self._last: tuple[str, str] | None = None

    def add(self, table: pa.Table) -> None:
        """The rows of one table that are of this split."""
        table = table.filter(pc.equal(table["split"], TRAIN))
        if not table.num_rows:
            return
        codes = pa.concat_arrays(table["site"].chunks).dictionary_encode()
        names = codes.dictionary.to_pylist()
        numbers = [self._numbers.setdefault(name, len(self._numbers)) for name in names]
        self._sites.append(np.array(numbers, dtype=np.int32)[codes.indices.to_numpy()])
        # A sequence that goes on in another shard is another one there, as it is to the loader.
        runs = pc.binary_join_element_wise(table["seq_id"], table["shard"], "\x1f")
        encoded = pa.concat_arrays(runs.chunks).dictionary_encode()
        codes_N = encoded.indices.to_numpy()
        starts = np.flatnonzero(np.diff(codes_N, prepend=-1))
        first, last = (encoded.dictionary[codes_N[at]].as_py() for at in (0, -1))
        starts = starts[1:] if first == self._last else starts
        self._starts.append(starts.astype(np.int64) + self._num_images)
        self._num_images, self._last = self._num_images + table.num_rows, last

    def order(self) -> TrainOrder | None:
        """None without an image."""
        if not self._sites:
            return None
        return TrainOrder(
            sites_N=np.concatenate(self._sites), starts_G=np.concatenate(self._starts)
        )


def _counted(table: pa.Table, names: list[str], *, single: bool = False) -> dict[Any, int]:
    """Rows of each combination of these columns."""
    counted = table.select(names).group_by(names, use_threads=False).aggregate([([], "count_all")])
    keys = zip(*(counted[name].to_pylist() for name in names), strict=True)
    values = counted["count_all"].to_pylist()
    return {key[0] if single else key: n for key, n in zip(keys, values, strict=True)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts ``S2`` before ``S10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def _site(name: str, rows: Sequence[Mapping[str, Any]]) -> SiteFigures:
    moments = [(row["datetime_min_min"], row["datetime_max_max"]) for row in rows]
    known = [pair for pair in moments if pair[0] is not None]
    return SiteFigures(
        name=name,
        splits=tuple(sorted(row["split"] for row in rows)),
        num_images=sum(row["image_id_count_sum"] for row in rows),
        num_empty=sum(row["is_empty_sum_sum"] for row in rows),
        first=min((first for first, _ in known), default=None),
        last=max((last for _, last in known), default=None),
    )


def _split(
    dataset: Dataset,
    name: str,
    sequences: Mapping[str, NDArray[np.uint64]],
    sites: Sequence[SiteFigures],
) -> SplitFigures:
    shards = dataset.shards(name)
    return SplitFigures(
        name=name,
        num_shards=len(shards),
        num_images=sum(shard.num_samples for shard in shards),
        num_sequences=len(sequences.get(name, ())),
        num_sites=sum(name in site.splits for site in sites),
        num_bytes=sum(shard.num_bytes for shard in shards),
    )
