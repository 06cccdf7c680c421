"""One global order of samples from (dataset, split, seed, epoch, window), and the place in it.

Pure and numpy only. The order knows nothing of ranks, batch sizes or threads: those only decide
who takes which part of it, so a cursor saved on one machine continues on any other.

Only the raw bits of numpy's Philox generator are used, with a stable sort: numpy promises that
stream for good, while ``Generator.permutation`` may change between versions.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.errors import ConfigError, require

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """A place in the global order: a few values are all that an exact resume needs.

    Attributes:
        plan_hash: fingerprint of the dataset's plan, hexadecimal.
        split: such as ``train``.
        seed: key of the order; another seed gives another order.
        epoch: number of the pass over the split, from 0.
        num_consumed: samples of this epoch that completed steps took, over all ranks together.
        window: shards that are mixed with each other; 0 keeps the order of the dataset.
    """

    plan_hash: str
    split: str
    seed: int
    epoch: int = 0
    num_consumed: int = 0
    window: int

    def __post_init__(self) -> None:
        for name in ("seed", "epoch", "num_consumed", "window"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 0, name, value, "zero or positive")

    def moved(self, num_samples: int) -> "Cursor":
        """The cursor ``num_samples`` further in the same epoch."""
        return dataclasses.replace(self, num_consumed=self.num_consumed + num_samples)

    def next_epoch(self) -> "Cursor":
        """The cursor at the start of the epoch after this one."""
        return dataclasses.replace(self, epoch=self.epoch + 1, num_consumed=0)

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return dataclasses.asdict(self)

    def resumed(self, state: dict[str, Any]) -> "Cursor":
        """The place that ``state`` names, in the order that this cursor belongs to.

        Args:
            state: from ``state()`` of a cursor in the same order, on any number of ranks.

        Raises:
            ConfigError: the state belongs to another order; says which value differs.
        """
        for name in ("plan_hash", "split", "seed", "window"):
            got, own = state.get(name), getattr(self, name)
            require(got == own, f"{name} of the loader's state", got, f"{own!r}, as in this loader")
        return dataclasses.replace(self, epoch=state["epoch"], num_consumed=state["num_consumed"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The share of every global batch that one rank takes.

    Attributes:
        rank: number of this rank, from 0.
        world_size: ranks in all.
        batch_size: samples per rank and step.
    """

    rank: int = 0
    world_size: int = 1
    batch_size: int

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        require(self.world_size > 0, "world_size", self.world_size, "positive")
        allowed = f"from 0 to {self.world_size - 1}"
        require(0 <= self.rank < self.world_size, "rank", self.rank, allowed)

    @property
    def global_batch(self) -> int:
        """Samples that all ranks take together in one step."""
        return self.world_size * self.batch_size

    def num_steps(self, num_left: int, *, drop_last: bool) -> int:
        """Steps that ``num_left`` samples give; the same on every rank, by arithmetic alone."""
        full, rest = divmod(num_left, self.global_batch)
        return full if drop_last or rest == 0 else full + 1

    def positions(self, num_consumed: int, step: int) -> Int64:
        """Places in the global order that this rank takes, (batch_size,); may pass the end.

        Args:
            num_consumed: samples of the epoch consumed before step 0.
            step: number of the step since then.
        """
        start = num_consumed + step * self.global_batch + self.rank * self.batch_size
        return np.arange(start, start + self.batch_size, dtype=np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochOrder:
    """The order of one epoch.

    Attributes:
        rows_N: row of the split's index at each place of the order.
        shards_S: number of each shard in the order in which shards are first needed.
    """

    rows_N: Int32
    shards_S: Int32


def epoch_order(shard_sizes_S: Int64, cursor: Cursor) -> EpochOrder:
    """The order of all samples in the cursor's epoch, whatever the cursor has consumed.

    Shards are permuted; then the samples of each window of ``cursor.window`` neighbouring shards
    are shuffled together, so that only those shards need to be at hand at any moment.

    Args:
        shard_sizes_S: samples of each shard in the order of the dataset; zeros are allowed.
        cursor: names dataset, split, seed, epoch and window.
    """
    num_shards, num_samples = len(shard_sizes_S), int(shard_sizes_S.sum())
    if num_samples > np.iinfo(np.int32).max:
        raise ConfigError(f"split {cursor.split} has {num_samples} samples, above 2^31")
    if cursor.window == 0:
        rows = np.arange(num_samples, dtype=np.int32)
        return EpochOrder(rows_N=rows, shards_S=np.arange(num_shards, dtype=np.int32))
    shards = _permutation(num_shards, cursor, "shards").astype(np.int32)
    ends = np.cumsum(shard_sizes_S)
    starts = ends - shard_sizes_S
    rows = np.empty(num_samples, dtype=np.int32)
    done = 0
    for first in range(0, num_shards, cursor.window):
        of_window = shards[first : first + cursor.window]
        pool = np.concatenate([np.arange(starts[s], ends[s], dtype=np.int32) for s in of_window])
        mixed = pool[_permutation(len(pool), cursor, f"window {first // cursor.window}")]
        rows[done : done + len(mixed)] = mixed
        done += len(mixed)
    return EpochOrder(rows_N=rows, shards_S=shards)


def _permutation(length: int, cursor: Cursor, purpose: str) -> Int64:
    """Keyed permutation of ``range(length)``."""
    key = f"{cursor.plan_hash}\n{cursor.split}\n{cursor.seed}\n{cursor.epoch}\n{purpose}"
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    bits = np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(length)
    return np.argsort(bits, kind="stable")
