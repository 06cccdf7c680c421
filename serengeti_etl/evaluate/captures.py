"""Site, hour and season of each image, looked up in the index by image id."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import DatasetError
from serengeti_etl.train.predictions import Flags, Int64, Predictions

Strings = NDArray[np.object_]

TRAIN = "train"
_COLUMNS = ("image_id", "site", "season", "datetime", "split")
UNKNOWN_HOUR = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Captures:
    """Where and when images, or sequences, were taken.

    Attributes:
        sites_N: "" where the label file names none.
        seasons_N: likewise.
        hours_N: 0 to 23 by the camera's clock; -1 where unknown.
        train_sites: sites that the model was trained on.
    """

    sites_N: Strings
    seasons_N: Strings
    hours_N: Int64
    train_sites: frozenset[str]

    def take(self, rows_M: Int64) -> "Captures":
        """Those at ``rows_M``."""
        return Captures(
            sites_N=self.sites_N[rows_M],
            seasons_N=self.seasons_N[rows_M],
            hours_N=self.hours_N[rows_M],
            train_sites=self.train_sites,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedSplit:
    """The predicted images of one split, and where and when they were taken.

    Attributes:
        split: such as ``val``.
        images: predicted.
        captures: of the images, in the same order.
    """

    split: str
    images: Predictions
    captures: Captures

    def take(self, mask_N: Flags) -> "PredictedSplit":
        """The images for which ``mask_N`` is true."""
        return PredictedSplit(
            split=self.split,
            images=self.images.take(mask_N),
            captures=self.captures.take(np.flatnonzero(mask_N)),
        )


def read_captures(dataset: Dataset, split: str, image_ids: tuple[str, ...]) -> Captures:
    """Where and when the images of ``split`` were taken, in the order of ``image_ids``.

    Raises:
        DatasetError: the index does not know an image, or is damaged.
    """
    parts, train_sites = [], set[str]()
    for table in dataset.index_tables(split, _COLUMNS):
        parts.append(_of_split(table, split))
        train_sites.update(pc.unique(_of_split(table, TRAIN)["site"]).to_pylist())
    rows = pa.concat_tables(parts)
    found = pc.index_in(pa.array(image_ids, pa.string()), value_set=rows["image_id"])
    if found.null_count:
        missing = image_ids[found.is_null().to_pylist().index(True)]
        url = dataset.store.url
        raise DatasetError(
            f"image {missing} is in a shard, but not in the index of {url}; run "
            f"`serengeti-etl verify {url}`"
        )
    rows = rows.take(found)
    hours = pc.fill_null(pc.hour(rows["datetime"]), UNKNOWN_HOUR)
    return Captures(
        sites_N=_strings(rows["site"]),
        seasons_N=_strings(rows["season"]),
        hours_N=hours.to_numpy().astype(np.int64),
        train_sites=frozenset(train_sites),
    )


def _of_split(table: pa.Table, split: str) -> pa.Table:
    return table.filter(pc.equal(table["split"], split))


def _strings(column: pa.ChunkedArray) -> Strings:
    return np.array(column.to_pylist(), dtype=np.object_)
