"""A dataset that is still being converted: what is committed of it by now."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

import pyarrow as pa

from serengeti_etl.ahead import in_order
from serengeti_etl.dataset.index import (
    PLAN_SETTINGS_FILE,
    UNREADABLE,
    ShardInfo,
    index_part_name,
    parse_report,
    parse_table,
)
from serengeti_etl.errors import DatasetError
from serengeti_etl.storage import Store

_PART = re.compile(r"index/((.+)-\d{6,})\.parquet")
_RANGE = re.compile(r"(.+)-(\d+)(?:\.\.(\d+))?")


class GrowingDataset:
    """The shards of a conversion that are committed by now; more with each ``refresh``.

    "Begin experimenting while more downloads." Which shards there are is the ``snapshot``: a short
    text that brings back the same ones, so that a resumed epoch is the same epoch.

    Args:
        store: where the conversion writes to.

    Raises:
        DatasetError: there is no conversion.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        try:
            plan = store.read_json(PLAN_SETTINGS_FILE)
            self._classes = tuple(plan["classes"])
            self._plan_hash = str(plan["plan_hash"])
        except FileNotFoundError:
            raise DatasetError(
                f"no {PLAN_SETTINGS_FILE} at {store.url}: start `serengeti-etl convert` first"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"{PLAN_SETTINGS_FILE} at {store.url} is damaged, or of an earlier version "
                f"({type(error).__name__}: {error})"
            ) from error
        self._known: dict[str, ShardInfo] = {}
        self._names: tuple[str, ...] = ()
        self.refresh()

    @property
    def classes(self) -> tuple[str, ...]:
        """Categories in the order of a model's outputs."""
        return self._classes

    @property
    def plan_hash(self) -> str:
        """Fingerprint of the plan, hexadecimal."""
        return self._plan_hash

    @property
    def snapshot(self) -> str:
        """The shards that count now, such as ``train-0..11,train-14,val-0``."""
        return format_names(self._names)

    def refresh(self) -> bool:
        """True if more shards are committed now; they count from here on."""
        matches = (_PART.fullmatch(name) for name in self.store.list("index"))
        names = tuple(match[1] for match in matches if match is not None)
        self._learn(names)
        found = tuple(name for name in names if name in self._known)
        has_more, self._names = found != self._names, found
        return has_more

    def restore(self, snapshot: str) -> None:
        """Count the shards of a snapshot, and no others.

        Raises:
            DatasetError: one of them is not there.
        """
        names = parse_names(snapshot)
        self._learn(names)
        lost = [name for name in names if name not in self._known]
        if lost:
            raise DatasetError(
                f"shard {lost[0]} of {self.store.url} was there when this was saved and is not any "
                "more: was the dataset converted anew?"
            )
        self._names = names

    def shards(self, split: str) -> tuple[ShardInfo, ...]:
        """The shards of ``split`` that count now, in order.

        Raises:
            DatasetError: there is none yet.
        """
        infos = tuple(self._known[name] for name in self._names)
        found = tuple(info for info in infos if info.split == split)
        if not found:
            raise DatasetError(f"no shard of split {split!r} at {self.store.url} is there yet")
        return found

    def index_tables(self, split: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows of the index in shard order, shard by shard."""
        read = partial(self._rows, list(columns))
        yield from in_order(read, self.shards(split))

    def _rows(self, columns: list[str], shard: ShardInfo) -> pa.Table:
        name = index_part_name(shard.name)
        try:
            return parse_table(self.store.read(name), columns)
        except UNREADABLE as error:
            raise DatasetError(
                f"{name} at {self.store.url} cannot be read ({str(error).strip()})"
            ) from error

    def _learn(self, names: Sequence[str]) -> None:
        new = [name for name in names if name not in self._known]
        for name, info in zip(new, in_order(self._report, new), strict=True):
            if info is not None:
                self._known[name] = info

    def _report(self, name: str) -> ShardInfo | None:
        try:
            return parse_report(self.store.read(index_part_name(name)))
        except FileNotFoundError:
            return None  # made again just now


def open_growing(url: str) -> GrowingDataset:
    """What is committed by now of the conversion that writes to ``url``.

    Raises:
        DatasetError: there is no conversion.
    """
    return GrowingDataset(Store(url=url))


def format_names(names: Sequence[str]) -> str:
    """Names of shards as a short text, such as ``train-0..11,train-14,val-0``."""
    parts = []
    for split, group in groupby(names, key=lambda name: name.rpartition("-")[0]):
        numbers = [int(name.rpartition("-")[2]) for name in group]
        # Numbers in a row differ from their places by the same.
        for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            first, *more = [number for _, number in run]
            parts.append(f"{split}-{first}..{more[-1]}" if more else f"{split}-{first}")
    return ",".join(parts)


def parse_names(text: str) -> tuple[str, ...]:
    """Names of shards from what ``format_names`` made.

    Raises:
        DatasetError: it did not make this.
    """
    names = []
    for part in filter(None, text.split(",")):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise DatasetError(f"{part!r} names no shards")
        first = int(match[2])
        names += [f"{match[1]}-{n:06d}" for n in range(first, int(match[3] or first) + 1)]
    return tuple(names)
