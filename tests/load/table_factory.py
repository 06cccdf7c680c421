"""Tables of samples drawn without any dataset."""

import numpy as np

from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.load.selection import EVERYTHING, Selection
from serengeti_etl.load.shard_source import Shard
from serengeti_etl.load.table import ImageTable, SampleTable
from serengeti_etl.storage import Store

CLASSES = ("empty", "giraffe", "zebra")


def draw_table(
    sizes: list[int], selection: Selection = EVERYTHING, *, seed: int = 0, num_datasets: int = 1
) -> SampleTable:
    """Shards of these sizes, in sequences of one to three images, with a label each or two."""
    rng = np.random.default_rng(seed)
    num_images = sum(sizes)
    starts_N = rng.random(num_images) < 0.5
    starts_N[np.cumsum(sizes)[:-1][np.cumsum(sizes)[:-1] < num_images]] = True
    num_codes_N = rng.integers(1, 3, num_images)
    return SampleTable(
        ImageTable(
            shards=tuple(_shard(at, size) for at, size in enumerate(sizes)),
            shard_sizes_S=np.array(sizes, dtype=np.int64),
            datasets_S=(np.arange(len(sizes)) * num_datasets // len(sizes)).astype(np.int32),
            blocks_N=np.arange(num_images, dtype=np.uint32),
            num_bytes_N=np.ones(num_images, dtype=np.int32),
            sequences_N=np.cumsum(starts_N).astype(np.int32),
            codes_K=rng.integers(0, len(CLASSES), num_codes_N.sum()).astype(np.int16),
            code_starts_N1=np.concatenate([[0], np.cumsum(num_codes_N)]).astype(np.int64),
            classes=CLASSES,
            canvas=(48, 64),
        ),
        selection,
    )


def _shard(at: int, size: int) -> Shard:
    info = ShardInfo(
        name=f"train-{at:06d}",
        split="train",
        num_samples=size,
        num_bytes=512 * size,
        num_rejected=0,
        sha256="",
        fingerprint="",
    )
    return Shard(store=Store(url="memory://drawn"), info=info)
