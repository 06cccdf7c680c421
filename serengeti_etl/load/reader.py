"""Samples out of tars: where each one lies is known, so nothing else of a tar is read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.errors import ShardError
from serengeti_etl.load.decode import View, decode_into
from serengeti_etl.load.shard_source import OpenShard, ShardSource
from serengeti_etl.load.table import SampleTable


class SampleReader:
    """Pixels of the samples of one split.

    Args:
        samples: where each sample lies.
        shards: the shards of the split, in the order of the dataset.
        url: of the dataset, for messages.
        files: the shards' tars.
    """

    def __init__(
        self, samples: SampleTable, shards: Sequence[ShardInfo], url: str, files: ShardSource
    ) -> None:
        self.files = files
        self._samples, self._shards, self._url = samples, shards, url

    def fill(
        self, rows: NDArray[np.int32], views: Sequence[View], pixels_BHWC: NDArray[np.uint8]
    ) -> None:
        """Decode some samples into memory of the caller.

        Args:
            rows: rows of the split's index.
            views: crop and flip of each.
            pixels_BHWC: (len(rows), height, width, 3) uint8, RGB, written in place.

        Raises:
            ShardError: a sample cannot be decoded, or a shard does not match its checksum.
        """
        opened: dict[int, OpenShard] = {}
        try:
            for row, view, out_HWC in zip(rows.tolist(), views, pixels_BHWC, strict=True):
                shard = int(self._samples.shards_N[row])
                if shard not in opened:
                    opened[shard] = self.files.open(shard)
                self._decode(opened[shard], row, view, out_HWC)
                if not opened[shard].is_whole:
                    name = self._shards[shard].name
                    raise ShardError(
                        f"shard {name} of {self._url} does not match its checksum; "
                        f"run `serengeti-etl verify {self._url}`"
                    )
        finally:
            for source in opened.values():
                source.close()

    def _decode(self, shard: OpenShard, row: int, view: View, out_HWC: NDArray[np.uint8]) -> None:
        offset, size = int(self._samples.offsets_N[row]), int(self._samples.num_bytes_N[row])
        jpeg = bytes(shard.read(offset, size))
        try:
            decode_into(jpeg, view, out_HWC)
        except ValueError as error:
            name = self._shards[self._samples.shards_N[row]].name
            raise ShardError(
                f"image {self._samples.image_ids[row].as_py()!r} in shard {name} of {self._url}, "
                f"{len(jpeg)} of {size} bytes at offset {offset}, cannot be decoded ({error}); "
                f"run `serengeti-etl verify {self._url}`"
            ) from error
