"""This project's loader as the benchmarks see it: all that they know of ``serengeti_etl.load``.

    python benchmarks/load_ours.py resume URL NUM_CONSUMED
    python benchmarks/load_ours.py sites URL
    python benchmarks/load_ours.py egress URL

Each prints one line of JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serengeti_etl import CacheSettings, LoaderSettings, ShardLoader
from serengeti_etl.dataset.index import INDEX_FILE
from serengeti_etl.load.epoch import Epoch
from serengeti_etl.load.order import Cursor, Part

BATCH = 256
NUM_BATCHES = 400
"""Batches, evenly over an epoch, in which sites are counted."""


LANES = 8
"""Of the order whose egress is measured: the same for any number of nodes that divides it."""


def open_ours(  # noqa: PLR0913 - one for each thing that the benchmarks vary
    url: str, resize_on: Literal["cpu", "device"], size: int, batch: int, cache: str, lanes: int = 1
) -> ShardLoader:
    """The loader, for square images of ``size`` px."""
    settings = LoaderSettings(
        image_size=(size, size),
        resize_on=resize_on,
        lanes=lanes,
        cache=CacheSettings(folder=cache) if cache else CacheSettings(),
    )
    return ShardLoader(url, split="train", batch_size=batch, seed=0, settings=settings)


def epoch_of(loader: ShardLoader, num_consumed: int = 0) -> Epoch:
    """Epoch 0."""
    cursor = Cursor(
        plan_hash=loader.datasets[0].plan_hash,
        split="train",
        seed=0,
        window=loader.settings.window,
        lanes=loader.settings.lanes,
        num_consumed=num_consumed,
    )
    return Epoch(loader.samples, cursor)


def rows_in_order(loader: ShardLoader) -> NDArray[np.int64]:
    """Rows of the split's index in the order of epoch 0."""
    epoch = epoch_of(loader)
    places = np.arange(epoch.num_samples)
    parts = np.array_split(places, max(1, len(places) // 4096))
    return np.concatenate([epoch.images(part)[:, 0] for part in parts])


def positions_of(node: int, num_nodes: int, num_samples: int) -> NDArray[np.int64]:
    """Places in the global order that a node with one rank takes in an epoch."""
    part = Part(rank=node, world_size=num_nodes, batch_size=BATCH, lanes=LANES)
    starts = range(0, num_samples - part.global_batch + 1, part.global_batch)
    return np.concatenate([part.positions(start, num_samples) for start in starts])


def first_rows(url: str, num_consumed: int) -> NDArray[np.int64]:
    """Rows of the first batch after a resume in the middle of epoch 0: no photograph is read."""
    loader = open_ours(url, "cpu", 224, BATCH, "")
    loader.load_state_dict(loader.state_dict() | {"num_consumed": num_consumed})
    epoch, part = epoch_of(loader, num_consumed), Part(batch_size=BATCH)
    epoch.windows(part.lanes_used(num_consumed), num_consumed)  # what the source is told
    rows = epoch.images(part.positions(num_consumed, epoch.num_samples))[:, 0]
    _KEPT.append(loader)  # so that its memory is there when it is read
    return rows


_KEPT: list[ShardLoader] = []


class _Passes:
    """Each iteration is one epoch."""

    def __init__(self, loader: ShardLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield batch.images_BCHW


def passes(
    url: str, resize_on: Literal["cpu", "device"], size: int, batch: int, cache: str
) -> Callable[[], Iterable[Any]]:
    """Makes the loader when called, once its imports are done."""
    return lambda: _Passes(open_ours(url, resize_on, size, batch, cache))


def resume(url: str, num_consumed: int) -> dict[str, Any]:
    """Seconds from the constructor to the rows of the first batch, and memory taken, in bytes."""
    before = _memory("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    rows = first_rows(url, num_consumed)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return {
        "rows": len(rows),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "held": _memory("VmRSS") - before,
        "peak": _memory("VmHWM") - before,
    }


def _memory(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"Error: this system does not tell {name}")


def sites(url: str) -> dict[str, Any]:
    """Mean distinct sites in a batch: our order, a true shuffle, and two that one meets often."""
    codes_N = _column(url, "site").dictionary_encode().indices.to_numpy()
    num = len(codes_N)
    loader = open_ours(url, "cpu", 224, BATCH, "")
    generator = np.random.default_rng(0)
    true = generator.permutation(num)
    return {
        "samples": num,
        "sites": int(codes_N.max()) + 1,
        "ours": distinct(codes_N[rows_in_order(loader)]),
        "true": distinct(codes_N[true]),
        "true_again": distinct(codes_N[generator.permutation(num)]),
        "shard_by_shard": distinct(codes_N),
        "natural_buffer": distinct(codes_N[_buffered(_natural(url), 1000, generator)]),
    }


def _column(url: str, name: str) -> pa.Array:
    """One column of a local dataset that has no split but train; nothing else is read."""
    table = pq.ParquetFile(Path(url) / INDEX_FILE).read(columns=[name], use_threads=False)
    return table[name].combine_chunks()


def _natural(url: str) -> NDArray[np.int64]:
    """Rows as cameras wrote them: by image id."""
    return np.asarray(pc.sort_indices(_column(url, "image_id")), dtype=np.int64)


def _buffered(
    rows: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """The rows as they leave a shuffle buffer: one at random goes as the next comes."""
    buffer, out = rows[:size].copy(), np.empty_like(rows)
    places = generator.integers(0, size, len(rows) - size)
    for at, (place, row) in enumerate(zip(places.tolist(), rows[size:].tolist(), strict=True)):
        out[at], buffer[place] = buffer[place], row
    out[len(rows) - size :] = buffer
    return out


def distinct(codes_N: NDArray[np.int32]) -> float:
    """Mean distinct values in batches that lie evenly over the order."""
    num_full = len(codes_N) // BATCH
    batches = np.unique(np.linspace(0, num_full - 1, min(NUM_BATCHES, num_full)).astype(int))
    return float(np.mean([len(np.unique(codes_N[at * BATCH :][:BATCH])) for at in batches]))


def egress(url: str) -> dict[str, Any]:
    """Bytes that 1, 2, 4 and 8 nodes fetch in an epoch, of the bytes of all shards."""
    loader = open_ours(url, "cpu", 224, BATCH, "", LANES)
    images = loader.samples.images
    sizes_S = np.array([shard.info.num_bytes for shard in images.shards])
    rows_N, total, found = rows_in_order(loader), int(sizes_S.sum()), {}
    for num_nodes in (1, 2, 4, 8):
        whole, bare = [], []
        for node in range(num_nodes):
            rows = rows_N[positions_of(node, num_nodes, len(rows_N))]
            whole.append(int(sizes_S[np.unique(images.shards_of(rows))].sum()))
            bare.append(int(images.num_bytes_N[rows].sum(dtype=np.int64)))
        found[str(num_nodes)] = {
            "of_dataset": sum(whole) / total,
            "of_dataset_busiest_node": max(whole) / total,
            "of_dataset_samples_only": sum(bare) / total,
        }
    return {"dataset_bytes": int(sizes_S.sum()), "nodes": found}


def main() -> None:
    """Do what the first argument says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("resume", "sites", "egress"))
    parser.add_argument("url")
    parser.add_argument("num_consumed", type=int, nargs="?", default=0)
    given = parser.parse_args()
    if given.what == "resume":
        print(json.dumps(resume(given.url, given.num_consumed)))
    else:
        print(json.dumps((sites if given.what == "sites" else egress)(given.url)))


if __name__ == "__main__":
    main()
