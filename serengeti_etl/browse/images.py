"""Every image of a dataset in arrays: about 100 bytes each, so that millions fit in memory.

What few values repeat in is a number for each image and the values once. What one image has for
itself, such as its checksum, stays on storage until somebody looks at it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset, ShardInfo
from serengeti_etl.errors import DatasetError

Codes = NDArray[np.integer[Any]]
Int64 = NDArray[np.int64]
Int32 = NDArray[np.int32]
Flags = NDArray[np.bool_]

NO_TIME = np.iinfo(np.int64).min

_COLUMNS = (
    "image_id",
    "seq_id",
    "frame_num",
    "site",
    "season",
    "datetime",
    "labels",
    "split",
    "shard",
    "offset",
    "num_bytes",
    "width",
    "height",
)
_BETWEEN_LABELS = "\x1f"
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Coded:
    """A column in which few values repeat.

    Attributes:
        names: the values, in the order that a person expects: S2 before S10.
        codes_N: of each image, the place of its value in ``names``.
    """

    names: tuple[str, ...]
    codes_N: Codes

    def name(self, row: int) -> str:
        """The value of one image."""
        return self.names[int(self.codes_N[row])]


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """All images of a dataset, in the order of its index.

    Attributes:
        image_ids: keys in the shards.
        sequences: ids of the sequences.
        sequence_N: of each image, the place of its sequence in ``sequences``.
        frame_N: of each image, its number in the sequence.
        seconds_N: when it was taken by the camera's clock, since 1970; ``NO_TIME`` where unknown.
        offset_N: of its JPEG in the shard, in bytes.
        num_bytes_N: of its JPEG.
        size_N2: width and height of its JPEG in px, (N, 2).
        columns: ``site``, ``season``, ``split``, ``shard`` and ``labels``, which has each
            combination of categories as one value.
        categories: that any image shows.
        shows_LC: which of them each combination has.
        shards: by their codes.
        order_N: rows by season, site, time, sequence and frame.
    """

    image_ids: pa.ChunkedArray
    sequences: pa.Array
    sequence_N: Codes
    frame_N: Int32
    seconds_N: Int64
    offset_N: Int64
    num_bytes_N: Int32
    size_N2: NDArray[np.uint16]
    columns: dict[str, Coded]
    categories: tuple[str, ...]
    shows_LC: Flags
    shards: tuple[ShardInfo, ...]
    order_N: Int32

    def __len__(self) -> int:
        """How many."""
        return len(self.image_ids)

    def find(self, image_id: str) -> int | None:
        """The row of an image; None if there is none of that id."""
        row = int(pc.index(self.image_ids, pa.scalar(image_id, pa.string())).as_py())
        return row if row >= 0 else None

    def labels(self, row: int) -> tuple[str, ...]:
        """What an image shows."""
        return tuple(self.columns["labels"].name(row).split(_BETWEEN_LABELS))

    def shard(self, row: int) -> ShardInfo:
        """Where an image lies."""
        return self.shards[int(self.columns["shard"].codes_N[row])]

    def sequence_rows(self, row: int) -> list[int]:
        """All frames of an image's sequence, in order."""
        rows = np.flatnonzero(self.sequence_N == self.sequence_N[row])
        return [int(one) for one in rows[np.argsort(self.frame_N[rows], kind="stable")]]

    def time(self, row: int) -> np.datetime64 | None:
        """When an image was taken; None where unknown."""
        seconds = int(self.seconds_N[row])
        return None if seconds == NO_TIME else np.datetime64(seconds, "s")


def read_images(dataset: Dataset) -> Images:
    """All images of ``dataset``, out of its index, some row groups at a time.

    Raises:
        DatasetError: there are none, or index and dataset.json disagree.
    """
    if not dataset.splits:
        raise DatasetError(f"{dataset.store.url} has no shard, so there is nothing to show")
    reading = _Reading(sum(shard.num_samples for shard in dataset.info.shards))
    for rows in dataset.index_tables(dataset.splits[0], _COLUMNS):
        reading.add(rows, dataset)
    images = reading.images(dataset)
    pa.default_memory_pool().release_unused()
    return images


def natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts numbers in names by their value, and letters of any case together."""
    parts = _DIGITS.split(text.casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], text


class _Reading:
    """What has been read so far, each array made once at its whole length."""

    def __init__(self, num_images: int) -> None:
        self.num_read = 0
        self.codes = {
            name: _Codes(num_images) for name in ("site", "season", "split", "shard", "labels")
        }
        self.frame_N = np.empty(num_images, np.int32)
        self.seconds_N = np.empty(num_images, np.int64)
        self.offset_N = np.empty(num_images, np.int64)
        self.num_bytes_N = np.empty(num_images, np.int32)
        self.size_N2 = np.empty((num_images, 2), np.uint16)
        self.image_ids: list[pa.Array] = []
        self.sequences: list[pa.DictionaryArray] = []

    def add(self, rows: pa.Table, dataset: Dataset) -> None:
        """Take in some rows of the index.

        Raises:
            DatasetError: there are more than dataset.json says.
        """
        part = slice(self.num_read, self.num_read + rows.num_rows)
        self.num_read = part.stop
        self._check(self.num_read <= len(self.frame_N), dataset)
        rows = rows.combine_chunks()
        self.image_ids.extend(rows["image_id"].chunks)
        self.sequences.extend(rows["seq_id"].chunks)
        for name in ("site", "season", "split", "shard"):
            self.codes[name].add(rows[name], part)
        labels = rows["labels"].cast(pa.list_(pa.string()))
        self.codes["labels"].add(pc.binary_join(labels, _BETWEEN_LABELS), part)
        seconds = rows["datetime"].cast(pa.timestamp("s"), safe=False).cast(pa.int64())
        self.seconds_N[part] = pc.fill_null(seconds, int(NO_TIME)).to_numpy()
        self.frame_N[part] = rows["frame_num"].to_numpy()
        self.offset_N[part] = rows["offset"].to_numpy()
        # A photograph of 2 GB, or of 65,536 px, is none, and reads as damaged.
        self.num_bytes_N[part] = np.clip(rows["num_bytes"].to_numpy(), 0, 2**31 - 1)
        for at, name in enumerate(("width", "height")):
            self.size_N2[part, at] = np.clip(rows[name].to_numpy(), 0, 2**16 - 1)

    def images(self, dataset: Dataset) -> Images:
        """All that was read.

        Raises:
            DatasetError: it is less than dataset.json says, or names other shards.
        """
        self._check(self.num_read == len(self.frame_N), dataset)
        sequences = pa.chunked_array(self.sequences).unify_dictionaries().combine_chunks()
        self.sequences.clear()
        columns = {name: self.codes.pop(name).coded() for name in tuple(self.codes)}
        categories, shows_LC = _categories(columns["labels"])
        sequence_N = sequences.indices.to_numpy()
        return Images(
            image_ids=pa.chunked_array(self.image_ids, pa.string()),
            sequences=sequences.dictionary,
            sequence_N=sequence_N,
            frame_N=self.frame_N,
            seconds_N=self.seconds_N,
            offset_N=self.offset_N,
            num_bytes_N=self.num_bytes_N,
            size_N2=self.size_N2,
            columns=columns,
            categories=categories,
            shows_LC=shows_LC,
            shards=_shards(dataset, columns["shard"]),
            order_N=_order(columns, (self.frame_N, sequence_N, self.seconds_N)),
        )

    def _check(self, is_right: bool, dataset: Dataset) -> None:  # noqa: FBT001 - says itself
        if not is_right:
            url = dataset.store.url
            raise DatasetError(
                f"the index of {url} has other images than the {len(self.frame_N):,} that "
                f"dataset.json says; run `serengeti-etl verify {url}`"
            )


class _Codes:
    """Numbers for the values of a column, given as they come."""

    def __init__(self, num_images: int) -> None:
        self._codes: dict[str, int] = {}
        self._code_N = np.empty(num_images, np.int32)

    def add(self, column: pa.ChunkedArray, part: slice) -> None:
        """Take in the values of some rows."""
        column = column.combine_chunks() if column.num_chunks else pa.array([], pa.string())
        some = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        names = some.dictionary.to_pylist()
        codes = [self._codes.setdefault(name, len(self._codes)) for name in names]
        self._code_N[part] = np.array(codes, np.int32)[some.indices.to_numpy()]

    def coded(self) -> Coded:
        """All of it, with the values in order."""
        names = tuple(sorted(self._codes, key=natural))
        place = np.empty(len(names), np.min_scalar_type(len(names)))
        place[[self._codes[name] for name in names]] = np.arange(len(names))
        return Coded(names=names, codes_N=place[self._code_N])


def _categories(labels: Coded) -> tuple[tuple[str, ...], Flags]:
    combinations = [name.split(_BETWEEN_LABELS) for name in labels.names]
    categories = tuple(sorted({one for some in combinations for one in some}, key=natural))
    shows = [[category in some for category in categories] for some in combinations]
    return categories, np.array(shows, np.bool_).reshape(len(combinations), len(categories))


def _order(columns: dict[str, Coded], last: Iterable[NDArray[Any]]) -> Int32:
    site, season = columns["site"], columns["season"]
    place_N = season.codes_N.astype(np.int32) * len(site.names) + site.codes_N
    return np.lexsort((*last, place_N)).astype(np.int32)


def _shards(dataset: Dataset, column: Coded) -> tuple[ShardInfo, ...]:
    known = {shard.name: shard for shard in dataset.info.shards}
    unknown = [name for name in column.names if name not in known]
    if unknown:
        url = dataset.store.url
        raise DatasetError(
            f"the index of {url} has images in shard {unknown[0]!r}, which dataset.json does not "
            f"know; run `serengeti-etl verify {url}`"
        )
    return tuple(known[name] for name in column.names)
