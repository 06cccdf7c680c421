"""Samples out of tars: where each one lies is known, so nothing else of a tar is read."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.errors import ShardError
from serengeti_etl.load.augment import View, Views
from serengeti_etl.load.decode import decode_into
from serengeti_etl.load.shards import ShardFiles
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
        self, samples: SampleTable, shards: Sequence[ShardInfo], url: str, files: ShardFiles
    ) -> None:
        self.files = files
        self._samples, self._shards, self._url = samples, shards, url

    def fill(self, rows: NDArray[np.int32], views: Views, pixels_BHWC: NDArray[np.uint8]) -> None:
        """Decode some samples into memory of the caller.

        Args:
            rows: rows of the split's index.
            views: of each.
            pixels_BHWC: (len(rows), height, width, 3) uint8, RGB, written in place.

        Raises:
            ShardError: a sample cannot be decoded, or a shard does not match its checksum.
        """
        descriptors: dict[int, int] = {}
        try:
            for row, view, out_HWC in zip(rows.tolist(), views, pixels_BHWC, strict=True):
                shard = int(self._samples.shards_N[row])
                if shard not in descriptors:
                    descriptors[shard] = self.files.open(shard)
                self._decode(descriptors[shard], row, view, out_HWC)
        finally:
            for descriptor in descriptors.values():
                os.close(descriptor)

    def _decode(self, descriptor: int, row: int, view: View, out_HWC: NDArray[np.uint8]) -> None:
        offset, size = int(self._samples.offsets_N[row]), int(self._samples.num_bytes_N[row])
        jpeg = os.pread(descriptor, size, offset)
        try:
            decode_into(jpeg, view, out_HWC)
        except ValueError as error:
            shard = self._shards[self._samples.shards_N[row]].name
            raise ShardError(
                f"image {self._samples.image_ids[row].as_py()!r} in shard {shard} of {self._url}, "
                f"{len(jpeg)} of {size} bytes at offset {offset}, cannot be decoded ({error}); "
                f"run `serengeti-etl verify {self._url}`"
            ) from error
