"""How well the loader's order mixes sites, beside a true shuffle of the whole split.

The order is that of ``load.order`` itself. A true shuffle needs no drawing: how many sites a batch
holds on average follows from how many images each has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.load.order import Cursor, EpochOrder, Groups
from serengeti_etl.report.figures import TRAIN, TrainOrder

WINDOW = 4
"""Shards that the loader mixes, unless told otherwise."""

MIN_IMAGES = 64
"""Of a split, below which there is nothing to mix."""

_BATCH, _NUM_BATCHES = 256, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class ShuffleQuality:
    """Distinct sites in a batch, on average.

    Attributes:
        batch_size: images of a batch.
        num_batches: that were looked at, evenly over the epoch.
        loader: in the loader's order.
        true: in a true shuffle, as expected.
        stored: one after the other as they lie in the shards.
    """

    batch_size: int
    num_batches: int
    loader: float
    true: float
    stored: float

    @property
    def share(self) -> float:
        """Of a true shuffle's sites."""
        return self.loader / self.true


def shuffle_quality(dataset: Dataset, train: TrainOrder) -> ShuffleQuality | None:
    """Of the training split of ``dataset``, in its first epoch with seed 0; None of very few."""
    if len(train.sites_N) < MIN_IMAGES:
        return None
    sizes_S = np.array([shard.num_samples for shard in dataset.shards(TRAIN)], dtype=np.int64)
    cursor = Cursor(plan_hash=dataset.plan_hash, split=TRAIN, seed=0, window=WINDOW)
    groups = Groups(starts_G=train.starts_G, stay_together=False)
    order = EpochOrder(sizes_S, cursor, groups)
    batch = min(_BATCH, max(1, order.num_samples // 4))
    last = order.num_samples // batch - 1
    places = np.unique(np.linspace(0, last, min(_NUM_BATCHES, last + 1)).astype(np.int64))
    batches = [np.arange(at * batch, (at + 1) * batch) for at in places.tolist()]
    return ShuffleQuality(
        batch_size=batch,
        num_batches=len(batches),
        loader=_distinct(train.sites_N, [order.samples(positions) for positions in batches]),
        true=_expected(np.bincount(train.sites_N), batch),
        stored=_distinct(train.sites_N, batches),
    )


def _distinct(sites_N: NDArray[np.int32], batches: Sequence[NDArray[np.int64]]) -> float:
    return float(np.mean([len(np.unique(sites_N[rows])) for rows in batches]))


def _expected(counts_S: NDArray[np.int64], batch: int) -> float:
    """Sites that a batch drawn without replacement holds: each unless all of it are others'."""
    total = int(counts_S.sum())
    all_ways = _log_ways(total, batch)
    missing = (math.exp(_log_ways(total - n, batch) - all_ways) for n in counts_S.tolist() if n)
    return math.fsum(1 - share for share in missing)


def _log_ways(num: int, chosen: int) -> float:
    """Logarithm of the ways to choose so many of ``num``."""
    if chosen > num:
        return -math.inf
    return math.lgamma(num + 1) - math.lgamma(chosen + 1) - math.lgamma(num - chosen + 1)
