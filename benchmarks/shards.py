"""How many range requests one shard should take, from a store 50 ms away.

    python benchmarks/shards.py [--megabytes 64] [--rounds 5]

A real S3 server (SeaweedFS) on loopback behind a relay that makes it 50 ms far, whose connections
carry 90 MB/s at most, as those of large stores do. Seconds until the first shard is open, until all
four of a window are, through memory and through an empty cache folder, and from a full one; the
variants in turn within each round. Medians of the rounds, least and most.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import s3fs

from benchmarks.clients import KEY, LATENCY_SECONDS, SECRET
from benchmarks.peer_runs import facts
from benchmarks.report import print_table, spread, text
from serengeti_etl.config import MIB
from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.load import shard_fetch
from serengeti_etl.load.shard_source import CacheSettings, Shard
from serengeti_etl.load.shards import open_source
from serengeti_etl.storage import Store
from tests.servers import s3_server

ROOT = Path(__file__).resolve().parents[1]
BUCKET = "bench"
NUM_SHARDS = 4
VARIANTS = {
    "one request": (1024 * MIB, 1),
    "8 MiB, 2 at once": (8 * MIB, 2),
    "8 MiB, 4 at once": (8 * MIB, 4),
    "8 MiB, 8 at once": (8 * MIB, 8),
    "16 MiB, 4 at once": (16 * MIB, 4),
    "4 MiB, 8 at once": (4 * MIB, 8),
}
CONNECTION_BYTES = 90e6
"""Per second."""

_RELAY = """
import asyncio, sys
from tests import relay
relay.WINDOW_BYTES = int(sys.argv[3])
asyncio.run(relay.serve("127.0.0.1", int(sys.argv[1]), float(sys.argv[2])))
"""


@contextmanager
def far_store() -> Iterator[tuple[str, str]]:
    """The endpoints of one server, near and far."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as near:
        port, window = urlsplit(near).port, int(CONNECTION_BYTES * LATENCY_SECONDS / 2)
        command = [sys.executable, "-c", _RELAY, str(port), str(LATENCY_SECONDS), str(window)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]  # noqa: S603
            far_port = int(process.stdout.readline())
            yield near, f"http://127.0.0.1:{far_port}"
            process.stdin.close()


def fill(endpoint: str, num_bytes: int) -> list[ShardInfo]:
    """Shards of random bytes in the bucket."""
    s3fs.S3FileSystem(endpoint_url=endpoint, key=KEY, secret=SECRET).mkdir(BUCKET)
    infos = []
    for number in range(NUM_SHARDS):
        content = os.urandom(num_bytes)
        info = ShardInfo(
            name=f"train-{number:06}",
            split="train",
            num_samples=1,
            num_bytes=num_bytes,
            num_rejected=0,
            sha256=hashlib.sha256(content).hexdigest(),
            fingerprint="",
        )
        store_at(endpoint).write(info.tar_name, content)
        infos.append(info)
    return infos


def store_at(endpoint: str) -> Store:
    """The bucket."""
    options = {"endpoint_url": endpoint, "key": KEY, "secret": SECRET}
    return Store(url=f"s3://{BUCKET}", options=options)


def measure(shards: list[Shard], num_needed: int, folder: str | None) -> float:
    """Seconds until so many shards that one batch needs are open."""
    source = open_source(shards, CacheSettings(folder=folder))
    start = time.perf_counter()
    source.begin(range(num_needed))
    for number in range(num_needed):
        source.open(number).close()
    seconds = time.perf_counter() - start
    source.close()
    return seconds


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description="Range requests per shard.")
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {variant: {} for variant in VARIANTS}
    with far_store() as (near, far):
        infos = fill(near, given.megabytes * 10**6)
        shards = [Shard(store=store_at(far), info=info) for info in infos]
        measure(shards, 1, None)  # connected and imported
        for _ in range(given.rounds):
            for variant, (num_bytes, at_once) in VARIANTS.items():
                shard_fetch.PART_NUM_BYTES, shard_fetch.NUM_PARTS_AT_ONCE = num_bytes, at_once
                with tempfile.TemporaryDirectory() as folder:
                    figures = {
                        "first, memory": measure(shards, 1, None),
                        "four, memory": measure(shards, NUM_SHARDS, None),
                        "four, cold cache": measure(shards, NUM_SHARDS, folder),
                        "four, warm cache": measure(shards, NUM_SHARDS, folder),
                    }
                for name, seconds in figures.items():
                    found[variant].setdefault(name, []).append(seconds)
    told = {
        variant: {name: spread(seconds) for name, seconds in figures.items()}
        for variant, figures in found.items()
    }
    print(f"{NUM_SHARDS} shards of {given.megabytes} MB, {LATENCY_SECONDS * 1000:.0f} ms away")
    head = ["seconds until open", *next(iter(told.values()))]
    print_table(
        head, [[name, *(text(one, digits=2) for one in row.values())] for name, row in told.items()]
    )
    print(json.dumps({"facts": facts(None), "shards": told}, ensure_ascii=False))


if __name__ == "__main__":
    main()
