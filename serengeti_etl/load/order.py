"""One global order of samples from (dataset, split, seed, epoch, window, lanes), and places in it.

Pure and numpy only. The order knows nothing of ranks, batch sizes or threads: those only decide
who takes which part of it, so a cursor saved on one machine continues on any other.

The shards of an epoch are permuted and put one after the other; that line is cut into ``lanes`` of
equal length; neighbouring shards of a lane form windows, whose samples are shuffled together; and
the order takes one sample of each lane in turn. So any ``n * lanes`` samples in a row hold ``n`` of
each lane, and a node that takes some lanes of every global batch reads no others' shards.

Nothing is worked out before it is asked for: a place in the middle of seven million costs what a
place at the start costs.

Only the raw bits of numpy's Philox generator are used, with a stable sort: numpy promises that
stream for good, while ``Generator.permutation`` may change between versions.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.errors import ConfigError, require

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

NUM_WINDOWS_KEPT = 2
"""Per lane: windows whose shuffled samples are remembered; a batch may reach into a second one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cursor:
    """A place in the global order: a few values are all that an exact resume needs.

    Attributes:
        plan_hash: fingerprint of the dataset's plan, or of those of several, hexadecimal.
        split: such as ``train``.
        selection: fingerprint of which samples are taken, hexadecimal; "" for all images.
        snapshot: the shards of a dataset that is still being converted; "" for a finished one.
        seed: key of the order; another seed gives another order.
        epoch: number of the pass over the split, from 0.
        num_consumed: samples of this epoch that completed steps took, over all ranks together.
        window: shards of a lane that are mixed with each other; 0 keeps the order of the dataset.
        lanes: parts of the order that take turns.
    """

    plan_hash: str
    split: str
    selection: str = ""
    snapshot: str = ""
    seed: int
    epoch: int = 0
    num_consumed: int = 0
    window: int
    lanes: int = 1

    def __post_init__(self) -> None:
        for name in ("seed", "epoch", "num_consumed", "window"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 0, name, value, "zero or positive")
        require(isinstance(self.lanes, int) and self.lanes > 0, "lanes", self.lanes, "positive")

    def moved(self, num_samples: int) -> "Cursor":
        """The cursor ``num_samples`` further in the same epoch."""
        return dataclasses.replace(self, num_consumed=self.num_consumed + num_samples)

    def at_epoch(self, epoch: int) -> "Cursor":
        """The cursor at the start of ``epoch``."""
        return dataclasses.replace(self, epoch=epoch, num_consumed=0)

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
        state = {"selection": "", "snapshot": "", "lanes": 1, **state}  # older checkpoints
        for name in ("plan_hash", "split", "selection", "seed", "window", "lanes"):
            got, own = state.get(name), getattr(self, name)
            require(got == own, f"{name} of the loader's state", got, f"{own!r}, as in this loader")
        return dataclasses.replace(
            self,
            snapshot=state["snapshot"],
            epoch=state["epoch"],
            num_consumed=state["num_consumed"],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """The share of every global batch that one rank takes.

    Attributes:
        rank: number of this rank, from 0.
        world_size: ranks in all.
        batch_size: samples per rank and step.
        lanes: of the order; each rank takes neighbouring lanes, as far as the numbers allow.
    """

    rank: int = 0
    world_size: int = 1
    batch_size: int
    lanes: int = 1

    def __post_init__(self) -> None:
        require(self.batch_size > 0, "batch_size", self.batch_size, "positive")
        require(self.world_size > 0, "world_size", self.world_size, "positive")
        require(self.lanes > 0, "lanes", self.lanes, "positive")
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

    def positions(self, start: int, num_samples: int) -> Int64:
        """Places in the global order that this rank takes, at most ``batch_size`` of them.

        Args:
            start: place of the first sample of the global batch.
            num_samples: samples of the epoch; places past its end are nobody's.
        """
        positions = np.arange(start, start + self.global_batch, dtype=np.int64)
        by_lane = positions[np.argsort(positions % self.lanes, kind="stable")]
        mine = by_lane[self.rank * self.batch_size : (self.rank + 1) * self.batch_size]
        # Left out here, not before: the last batch too leaves every rank its own lanes.
        return mine[mine < num_samples]

    def lanes_used(self, start: int) -> tuple[int, ...]:
        """The lanes that this rank takes samples of in the steps from ``start`` on, sorted."""
        # The pattern of lanes repeats after at most as many steps as there are lanes.
        steps = (
            self.positions(start + step * self.global_batch, np.iinfo(np.int64).max)
            for step in range(self.lanes)
        )
        return tuple(np.unique(np.concatenate([step % self.lanes for step in steps])).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Neighbouring shards of a lane whose samples are mixed.

    Attributes:
        lane: its lane, from 0.
        number: of the window in its lane, from 0.
        shards: their numbers.
        first: place in the global order of its first sample.
        last: place of its last sample.
    """

    lane: int
    number: int
    shards: tuple[int, ...]
    first: int
    last: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Groups:
    """Samples that look alike, such as the images of a sequence.

    Attributes:
        starts_G: first sample of each group, in rising order; no group reaches from one shard into
            the next.
        stay_together: the samples of a group follow each other; otherwise they are kept as far
            from each other as a window allows, so that a batch has no two of them.
    """

    starts_G: Int64
    stay_together: bool

    def numbers(self, samples: Int64) -> Int64:
        """The group of each sample, numbered from 0 without gaps."""
        groups = np.searchsorted(self.starts_G, samples, side="right")
        return np.unique(groups, return_inverse=True)[1].astype(np.int64)


class EpochOrder:
    """The order of one epoch: which sample stands at which place.

    Args:
        shard_sizes_S: samples of each shard in the order of the dataset; zeros are allowed.
        cursor: names dataset, split, seed, epoch, window and lanes.
        groups: of samples that look alike, such as the images of a sequence; None for none.
    """

    def __init__(
        self, shard_sizes_S: Int64, cursor: Cursor, groups: "Groups | None" = None
    ) -> None:
        self._cursor, self._groups = cursor, groups
        num_shards = len(shard_sizes_S)
        is_mixed = cursor.window > 0
        self._shards_S = (
            _permutation(num_shards, cursor, "shards") if is_mixed else np.arange(num_shards)
        )
        self._row_starts_S = np.cumsum(shard_sizes_S) - shard_sizes_S
        # Where each shard ends when they stand one after the other in the permuted order.
        self._ends_S = np.cumsum(shard_sizes_S[self._shards_S])
        self.num_samples = int(shard_sizes_S.sum())
        each, rest = divmod(self.num_samples, cursor.lanes)
        lengths_L = each + (np.arange(cursor.lanes) < rest)
        self._lane_ends_L = np.cumsum(lengths_L)
        self._lane_starts_L = self._lane_ends_L - lengths_L
        self._kept: OrderedDict[tuple[int, int], Int64] = OrderedDict()

    def samples(self, positions_B: Int64) -> Int64:
        """Numbers of the samples at these places, (B,); counted in the order of the dataset."""
        lanes_B = positions_B % self._cursor.lanes
        in_line_B = self._lane_starts_L[lanes_B] + positions_B // self._cursor.lanes
        shard_places_B = np.searchsorted(self._ends_S, in_line_B, side="right")
        windows_B = self._windows(lanes_B, shard_places_B)
        samples_B = np.empty(len(positions_B), dtype=np.int64)
        keys_B2 = np.stack([lanes_B, windows_B], axis=1)
        for lane, window in np.unique(keys_B2, axis=0).tolist():
            here_B = (lanes_B == lane) & (windows_B == window)
            first = self._bounds(lane, window)[0]
            samples_B[here_B] = self._mixed(lane, window)[in_line_B[here_B] - first]
        return samples_B

    def windows(self, lanes: tuple[int, ...], start: int = 0) -> list[Window]:
        """The windows of some lanes in order of need, without those that end before ``start``.

        Args:
            lanes: numbers of lanes.
            start: place in the global order.
        """
        found = [window for lane in lanes for window in self._windows_of(lane, start)]
        return sorted(found, key=lambda window: (window.first, window.lane))

    def _windows_of(self, lane: int, start: int) -> list[Window]:
        found = []
        for number in range(self._num_windows(lane)):
            line_first, line_end = self._bounds(lane, number)
            first, last = self._place(lane, line_first), self._place(lane, line_end - 1)
            if line_first < line_end and last >= start:
                shards = tuple(shard for shard, _, _ in self._pieces(line_first, line_end))
                window = Window(lane=lane, number=number, shards=shards, first=first, last=last)
                found.append(window)
        return found

    def _place(self, lane: int, in_line: int) -> int:
        """Place in the global order of what stands in the line of all shards."""
        return (in_line - int(self._lane_starts_L[lane])) * self._cursor.lanes + lane

    def _num_windows(self, lane: int) -> int:
        size, end = max(1, self._cursor.window), self._lane_ends_L[lane]
        if end == self._lane_starts_L[lane]:
            return 0
        last_shard = int(np.searchsorted(self._ends_S, end - 1, side="right"))
        return (last_shard - int(self._first_shard(lane))) // size + 1

    def _windows(self, lanes_B: Int64, shard_places_B: Int64) -> Int64:
        """Number of the window in its lane for shards in the permuted order."""
        firsts_B: Int64 = self._first_shard(lanes_B)
        return (shard_places_B - firsts_B) // max(1, self._cursor.window)

    def _first_shard(self, lanes: Any) -> Any:
        """Place in the permuted order of a lane's first shard."""
        starts = self._lane_starts_L[lanes]
        return np.where(starts == 0, 0, np.searchsorted(self._ends_S, starts, side="right"))

    def _bounds(self, lane: int, window: int) -> tuple[int, int]:
        """First and end of a window in the line of all shards; equal where there is none."""
        size = max(1, self._cursor.window)
        first_shard = int(self._first_shard(lane)) + window * size
        lane_start, lane_end = int(self._lane_starts_L[lane]), int(self._lane_ends_L[lane])
        if first_shard >= len(self._ends_S):
            return lane_end, lane_end
        before = int(self._ends_S[first_shard - 1]) if first_shard else 0
        end = int(self._ends_S[min(first_shard + size, len(self._ends_S)) - 1])
        first = min(max(before, lane_start), lane_end)
        return first, min(end, lane_end)

    def _pieces(self, first: int, end: int) -> list[tuple[int, int, int]]:
        """Shards of a stretch of the line, each with its first and end sample there."""
        at = int(np.searchsorted(self._ends_S, first, side="right"))
        pieces = []
        while first < end:
            shard, shard_end = int(self._shards_S[at]), int(self._ends_S[at])
            stop = min(end, shard_end)
            before = int(self._ends_S[at - 1]) if at else 0
            if stop > first:
                start = int(self._row_starts_S[shard]) + first - before
                pieces.append((shard, start, start + stop - first))
            first, at = max(first, stop), at + 1
        return pieces

    def _mixed(self, lane: int, window: int) -> Int64:
        """The samples of a window in the order in which they are handed out."""
        key = (lane, window)
        if key not in self._kept:
            self._kept[key] = self._mix(lane, window)
            while len(self._kept) > NUM_WINDOWS_KEPT * self._cursor.lanes:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _mix(self, lane: int, window: int) -> Int64:
        pieces = self._pieces(*self._bounds(lane, window))
        samples = np.concatenate([np.arange(start, stop) for _, start, stop in pieces])
        if self._cursor.window == 0:
            return samples
        purpose = f"window {window}" if self._cursor.lanes == 1 else f"lane {lane} window {window}"
        if self._groups is None:
            return samples[_permutation(len(samples), self._cursor, purpose)]
        numbers = self._groups.numbers(samples)
        mix = _mixed_together if self._groups.stay_together else _mixed_apart
        return samples[mix(numbers, self._cursor, purpose)]


def _mixed_together(numbers: Int64, cursor: Cursor, purpose: str) -> Int64:
    """Places in an order that mixes the groups, and keeps each as it is."""
    rank = np.argsort(_permutation(int(numbers.max()) + 1, cursor, purpose))
    return np.argsort(rank[numbers], kind="stable")


def _mixed_apart(numbers: Int64, cursor: Cursor, purpose: str) -> Int64:
    """Places in an order that mixes samples, each of a group's n in another n-th of the order.

    Every sample may come anywhere, as in a plain shuffle; but near-duplicates of one burst keep
    out of each other's batches, which a shuffle of so few shards would not achieve by chance.
    """
    counts_G = np.bincount(numbers)
    by_group = np.argsort(numbers, kind="stable")
    in_group = np.empty(len(numbers), dtype=np.int64)
    first_G = np.cumsum(counts_G) - counts_G
    in_group[by_group] = np.arange(len(numbers)) - first_G[numbers[by_group]]
    turn_G = random_bits(cursor, f"{purpose} turn", len(counts_G)) % counts_G.astype(np.uint64)
    part = (in_group + turn_G.astype(np.int64)[numbers]) % counts_G[numbers]
    inside = (random_bits(cursor, purpose, len(numbers)) >> np.uint64(11)) * 2.0**-53
    return np.argsort((part + inside) / counts_G[numbers], kind="stable")


def _permutation(length: int, cursor: Cursor, purpose: str) -> Int64:
    """Keyed permutation of ``range(length)``."""
    bits = random_bits(cursor, purpose, length)
    return np.argsort(bits, kind="stable")


def random_bits(cursor: Cursor, purpose: str, length: int) -> NDArray[np.uint64]:
    """64 random bits for each of ``length`` places, decided by dataset, split, seed and epoch.

    Args:
        cursor: whose values are the key.
        purpose: another purpose gives other bits.
        length: how many.
    """
    key = f"{cursor.plan_hash}\n{cursor.split}\n{cursor.seed}\n{cursor.epoch}\n{purpose}"
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(length)


def check_size(num_samples: int, split: str) -> None:
    """Nothing, if so many samples can be numbered.

    Raises:
        ConfigError: they are more than 2^31.
    """
    if num_samples > np.iinfo(np.int32).max:
        raise ConfigError(f"split {split} has {num_samples} samples, above 2^31")
