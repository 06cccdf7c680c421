"""Samples out of shards: where each one lies is known, so nothing else of a tar is read.

What is read is held to what the index says: its place, size, name and labels, and in a shard that
does not match its checksum the photograph's own checksum. What does not hold is never handed out: a
neighbour stands in for it, is counted, and there may be only so many.
"""

import hashlib
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.dataset.index import UNREADABLE, index_part_name, read_table
from serengeti_etl.errors import ShardError
from serengeti_etl.load.augment import View
from serengeti_etl.load.decode import decode_into, decode_onto
from serengeti_etl.load.member import (
    BLOCK_NUM_BYTES,
    DamagedSampleError,
    Member,
    json_end,
    num_bytes_around,
    parse_member,
)
from serengeti_etl.load.shard_source import OpenShard, ShardSource
from serengeti_etl.load.table import ImageTable
from serengeti_etl.stages import Stages

_LOG = logging.getLogger(__name__)

UInt8 = NDArray[np.uint8]

_NUM_PARTS_KEPT = 64
"""Index parts remembered of shards whose samples are checked one by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """One image that a batch wants.

    Attributes:
        image: its number.
        view: what is to be seen of it.
        out_HWC: memory for its pixels; None wants the JPEG.
        is_whole: True wants the whole photograph on a canvas, which the view is left to.
    """

    image: int
    view: View
    out_HWC: UInt8 | None
    is_whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Got:
    """One image that a batch gets.

    Attributes:
        image: its number: the one that was wished for, or a neighbour of it.
        image_id: its name.
        seq_id: name of its sequence.
        size: height and width in px of what was written, 0 if nothing was.
        jpeg: the JPEG, where it was wanted.
    """

    image: int
    image_id: str
    seq_id: str
    size: tuple[int, int] = (0, 0)
    jpeg: bytes = b""


class SampleReader:
    """Pixels of the images of one split.

    Args:
        images: where each image lies.
        source: the shards.
        max_damaged: images that may be replaced by a neighbour before it is an error.
        stages: gets the time of ``wait`` for shards, ``read`` and ``decode``.
    """

    def __init__(
        self, images: ImageTable, source: ShardSource, max_damaged: int, stages: Stages
    ) -> None:
        self.source = source
        self._images, self._max_damaged, self._stages = images, max_damaged, stages
        self._ends_S = np.cumsum(images.shard_sizes_S)
        self._damaged: dict[int, str] = {}
        self._lock = threading.Lock()
        self._class_set = frozenset(images.classes)
        self._rows_of = lru_cache(maxsize=_NUM_PARTS_KEPT)(self._read_rows)

    @property
    def num_damaged(self) -> int:
        """Images that were replaced by a neighbour."""
        return len(self._damaged)

    def fill(self, wishes: Sequence[Wish]) -> list[Got]:
        """What came of each wish, after writing its pixels.

        Raises:
            ShardError: a shard is missing, the store failed on every try, or more samples are
                damaged than may be.
        """
        shards: dict[int, OpenShard] = {}
        with ExitStack() as stack:
            found = []
            for wish in wishes:
                number = int(np.searchsorted(self._ends_S, wish.image, side="right"))
                if number not in shards:
                    with self._stages.time("wait"):
                        shards[number] = self.source.open(number)
                    stack.callback(shards[number].close)
                found.append(self._filled(wish, number, shards[number]))
        return found

    def _filled(self, wish: Wish, number: int, shard: OpenShard) -> Got:
        """The wish, or the first image after it in its shard that is not damaged."""
        for image in self._itself_and_neighbours(wish.image, number):
            if image in self._damaged:
                continue
            try:
                return self._decoded(wish, image, self._member(image, number, shard))
            except ValueError as error:
                self._count_damaged(image, number, str(error))
        raise ShardError(f"no sample of {self._named(number)} is whole; {self._advice(number)}")

    def _itself_and_neighbours(self, image: int, number: int) -> Iterator[int]:
        end = int(self._ends_S[number])
        yield from range(image, end)
        yield from range(end - int(self._images.shard_sizes_S[number]), image)

    def _member(self, image: int, number: int, shard: OpenShard) -> Member:
        offset = int(self._images.blocks_N[image]) * BLOCK_NUM_BYTES
        num_bytes = int(self._images.num_bytes_N[image])
        with self._stages.time("read"):
            start = offset - BLOCK_NUM_BYTES
            content = shard.read(start, num_bytes_around(num_bytes))
            end = json_end(content, num_bytes)
            if end > len(content):
                content = shard.read(start, end)
            member = parse_member(content, num_bytes)
            self._check_labels(image, member)
            if not shard.is_whole:
                self._check_content(member, number)
        return member

    def _check_labels(self, image: int, member: Member) -> None:
        known = {self._images.classes[code] for code in self._images.codes_of(image)}
        if known != self._class_set.intersection(member.said["labels"]):
            raise DamagedSampleError("its labels are not those of the index")

    def _check_content(self, member: Member, number: int) -> None:
        """Nothing, if this is what the shard's index part has."""
        row = self._rows_of(number).get(member.said["image_id"])
        said = (member.said["seq_id"], hashlib.sha256(member.jpeg).hexdigest())
        if row != said:
            raise DamagedSampleError("it does not match its checksum")

    def _read_rows(self, number: int) -> dict[str, tuple[str, str]]:
        """Sequence and checksum of each image of a shard, by name."""
        shard = self._images.shards[number]
        columns = ["image_id", "seq_id", "sha256"]
        try:
            table = read_table(shard.store, index_part_name(shard.info.name), columns)
        except UNREADABLE as error:
            raise ShardError(
                f"{self._named(number)} does not match its checksum, and its index part cannot be "
                f"read ({str(error).strip()}); {self._advice(number)}"
            ) from error
        names, sequences, sums = (table[column].to_pylist() for column in columns)
        return dict(zip(names, zip(sequences, sums, strict=True), strict=True))

    def _decoded(self, wish: Wish, image: int, member: Member) -> Got:
        said, size, jpeg = member.said, (0, 0), b""
        with self._stages.time("decode"):
            if wish.out_HWC is None:
                jpeg = bytes(member.jpeg)
            elif wish.is_whole:
                size = decode_onto(member.jpeg, wish.out_HWC)
            else:
                decode_into(member.jpeg, wish.view, wish.out_HWC)
                size = wish.out_HWC.shape[:2]
        return Got(
            image=image, image_id=said["image_id"], seq_id=said["seq_id"], size=size, jpeg=jpeg
        )

    def _count_damaged(self, image: int, number: int, reason: str) -> None:
        offset = int(self._images.blocks_N[image]) * BLOCK_NUM_BYTES
        what = (
            f"the image of {self._images.num_bytes_N[image]} bytes at offset {offset} of "
            f"{self._named(number)} cannot be used ({reason})"
        )
        with self._lock:
            is_new = image not in self._damaged
            self._damaged[image] = reason
            num_damaged = len(self._damaged)
        if num_damaged > self._max_damaged:
            more = f"; it is number {num_damaged}, max_damaged is {self._max_damaged}"
            raise ShardError(f"{what}{more}; {self._advice(number)}")
        if is_new:
            _LOG.warning("%s; its neighbour stands in for it; %s", what, self._advice(number))

    def _named(self, number: int) -> str:
        shard = self._images.shards[number]
        return f"shard {shard.info.name} of {shard.store.url}"

    def _advice(self, number: int) -> str:
        return f"run `serengeti-etl verify {self._images.shards[number].store.url}`"
