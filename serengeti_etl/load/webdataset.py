"""The same shards as a plain webdataset pipeline, for those who already have one.

Limits, all of them webdataset's own:

- no exact resume: a pipeline starts each epoch anew;
- ``shuffle`` mixes a buffer, which for camera-trap bursts is far from a global shuffle;
- shards, not samples, are divided over nodes and workers, so ranks get unequal numbers of samples;
- nothing is cached: every pass reads every shard again.

For training prefer ``load.loader.ShardLoader``, which has none of them.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import webdataset as wds
from numpy.typing import NDArray
from webdataset.tariterators import group_by_keys, tar_file_expander

from serengeti_etl.dataset.index import Dataset, open_dataset
from serengeti_etl.errors import ShardError
from serengeti_etl.load.decode import decode_image


def webdataset_pipeline(
    url: str | Dataset,
    *,
    split: str,
    image_size: tuple[int, int] | None = None,
    shuffle: int = 0,
    seed: int = 0,
) -> Any:
    """A ``webdataset.DataPipeline`` of (image, target, key) over the shards of ``split``.

    The image is (height, width, 3) uint8 RGB, the target (num_classes,) float32 multi-hot, the key
    the image id. Filters of webdataset can be appended with ``compose``, and nodes and DataLoader
    workers share the shards.

    Args:
        url: a dataset's folder or bucket prefix, or an open ``Dataset``.
        split: such as ``train``.
        image_size: height and width in px to stretch photographs to; None keeps their own.
        shuffle: samples in the shuffle buffer, and then shards are shuffled too; 0 for neither.
        seed: of both shuffles; every pass of one pipeline object gives another order.

    Raises:
        DatasetError: there is no finished dataset, or not this split.
    """
    dataset = open_dataset(url) if isinstance(url, str) else url
    names = [shard.tar_name for shard in dataset.shards(split) if shard.num_samples]
    shuffled_shards = [wds.detshuffle(bufsize=len(names), initial=len(names), seed=seed)]
    shuffled_samples = [wds.detshuffle(bufsize=shuffle, initial=shuffle, seed=seed)]
    return wds.DataPipeline(
        # names of tars
        wds.SimpleShardList(names),
        *(shuffled_shards if shuffle else []),
        wds.split_by_node,
        wds.split_by_worker,
        # -> open tars -> their members -> samples
        _CheckedShards(dataset, split),
        tar_file_expander,
        group_by_keys,
        *(shuffled_samples if shuffle else []),
        # -> (image, target, key)
        wds.map(_Decoder(dataset, image_size)),
    )


class _CheckedShards:
    """Opens tars, each read whole and checked: webdataset takes a cut tar for a shorter one."""

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._store = dataset.store
        self._sha256 = {shard.tar_name: shard.sha256 for shard in dataset.shards(split)}

    def __call__(self, source: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for item in source:
            name = item["url"]
            content = self._store.read(name)
            if hashlib.sha256(content).hexdigest() != self._sha256[name]:
                url = self._store.url
                raise ShardError(
                    f"{name} of {url} does not match its checksum; run `serengeti-etl verify {url}`"
                )
            yield item | {"stream": io.BytesIO(content)}


class _Decoder:
    """Turns the members of one sample into (image, target, key)."""

    def __init__(self, dataset: Dataset, image_size: tuple[int, int] | None) -> None:
        self._positions, self._size = dataset.class_index, image_size

    def __call__(
        self, sample: dict[str, Any]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], str]:
        target_C = np.zeros(len(self._positions), dtype=np.float32)
        for category in json.loads(sample["json"])["labels"]:
            if category in self._positions:
                target_C[self._positions[category]] = 1
        return decode_image(sample["jpg"], self._size), target_C, sample["__key__"]
