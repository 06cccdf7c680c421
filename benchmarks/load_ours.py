"""This project's loader as the benchmarks see it: all that they know of ``serengeti_etl.load``.

    python benchmarks/load_ours.py resume URL NUM_CONSUMED
    python benchmarks/load_ours.py sites URL
    python benchmarks/load_ours.py egress URL

Each prints one line of JSON.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serengeti_etl import LoaderSettings, ShardLoader
from serengeti_etl.dataset.index import INDEX_FILE
from serengeti_etl.load.order import Cursor, Part, epoch_order

BATCH = 256
NUM_BATCHES = 400
"""Batches, evenly over an epoch, in which sites are counted."""


# --- To be adapted where the loader changes -------------------------------------------------------


def open_ours(url: str, resize_on: str, size: int, batch: int, cache: str) -> ShardLoader:
    """The loader, for square images of ``size`` px.

    Raises:
        SystemExit: this loader cannot leave the resize to the device.
    """
    settings: dict[str, Any] = {"image_size": (size, size)}
    if "resize_on" in {field.name for field in dataclasses.fields(LoaderSettings)}:
        settings["resize_on"] = resize_on
    elif resize_on != "cpu":
        raise SystemExit("not there: LoaderSettings has no resize_on")
    if cache:
        settings["cache_folder"] = cache
    return ShardLoader(
        url, split="train", batch_size=batch, seed=0, settings=LoaderSettings(**settings)
    )


def rows_in_order(loader: ShardLoader, num_nodes: int = 1) -> NDArray[np.int32]:
    """Rows of the split's index in the order of epoch 0, for that many nodes."""
    del num_nodes  # today one order for all
    cursor = Cursor(
        plan_hash=loader.dataset.plan_hash, split="train", seed=0, window=loader.settings.window
    )
    return epoch_order(loader.samples.shard_sizes_S, cursor).rows_N


def positions_of(node: int, num_nodes: int, num_samples: int) -> NDArray[np.int64]:
    """Places in the global order that a node with one rank takes in an epoch."""
    part = Part(rank=node, world_size=num_nodes, batch_size=BATCH)
    steps = part.num_steps(num_samples, drop_last=True)
    first_S = np.arange(steps, dtype=np.int64) * part.global_batch + node * BATCH
    return (first_S[:, None] + np.arange(BATCH, dtype=np.int64)).reshape(-1)


def first_rows(url: str, num_consumed: int) -> NDArray[np.int32]:
    """Rows of the first batch after a resume in the middle of epoch 0: no photograph is read."""
    loader = open_ours(url, "cpu", 224, BATCH, "")
    loader.load_state_dict(loader.state_dict() | {"num_consumed": num_consumed})
    part = Part(batch_size=BATCH)
    rows = rows_in_order(loader)[part.positions(num_consumed, 0)]
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
    url: str, resize_on: str, size: int, batch: int, cache: str
) -> Callable[[], Iterable[Any]]:
    """Makes the loader when called, once its imports are done."""
    return lambda: _Passes(open_ours(url, resize_on, size, batch, cache))


# --- Measured -------------------------------------------------------------------------------------


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
    loader = open_ours(url, "cpu", 224, BATCH, "")
    sizes_S = np.array([shard.num_bytes for shard in loader.dataset.shards("train")])
    samples, found = loader.samples, {}
    for num_nodes in (1, 2, 4, 8):
        rows_N = rows_in_order(loader, num_nodes)
        whole, bare = [], []
        for node in range(num_nodes):
            rows = rows_N[positions_of(node, num_nodes, len(rows_N))]
            whole.append(int(sizes_S[np.unique(samples.shards_N[rows])].sum()))
            bare.append(int(samples.num_bytes_N[rows].sum(dtype=np.int64)))
        total = int(sizes_S.sum())
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
