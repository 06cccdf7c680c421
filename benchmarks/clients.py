"""What one GET of a photograph costs, by client, from a real S3 server on loopback.

    python benchmarks/clients.py [--objects 200] [--rounds 5]

Objects of 0.75 MB (SeaweedFS), 32 requests in flight from threads, the clients in turn within
each round: CPU (user and system) of this process per GET, and objects a second from the server
itself and from behind a relay that makes it 50 ms far. Medians of the rounds, least and most.
``read_checked`` also compares the MD5 in the ETag.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import obstore
import psutil
import s3fs
from obstore.fsspec import FsspecStore
from obstore.store import S3Store

from benchmarks.peer_runs import facts
from benchmarks.report import print_table, text
from serengeti_etl.convert.fetch import MAX_IN_FLIGHT
from serengeti_etl.storage import Store
from tests.relay import relay
from tests.servers import S3_CREDENTIALS, s3_server

BUCKET = "bench"
OBJECT_NUM_BYTES = 750_000
LATENCY_SECONDS = 0.05
KEY, SECRET = S3_CREDENTIALS["AWS_ACCESS_KEY_ID"], S3_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]

Get = Callable[[str], bytes]


def clients(endpoint: str) -> dict[str, Get]:
    """A function that gets an object by its name, for each client."""
    config = {"endpoint": endpoint, "access_key_id": KEY, "secret_access_key": SECRET}
    options = {"allow_http": True}
    bare = S3Store(
        BUCKET,
        config=config,  # type: ignore[arg-type]
        client_options=options,  # type: ignore[arg-type]
        retry_config={"max_retries": 0},
    )
    adapter = FsspecStore("s3", config=config, client_options=options)  # type: ignore[call-overload]
    amazon = s3fs.S3FileSystem(endpoint_url=endpoint, key=KEY, secret=SECRET)
    ours = Store(
        url=f"s3://{BUCKET}", options={"endpoint_url": endpoint, "key": KEY, "secret": SECRET}
    )
    return {
        "obstore, bare": lambda name: obstore.get(bare, name).bytes().to_bytes(),
        "ours: Store.read": ours.read,
        "ours: Store.read_checked": ours.read_checked,
        "obstore's fsspec adapter": lambda name: bytes(adapter.cat_file(f"{BUCKET}/{name}")),
        "s3fs": lambda name: bytes(amazon.cat_file(f"{BUCKET}/{name}")),
    }


def server_seconds() -> float:
    """CPU of the server so far."""
    times = [one.cpu_times() for one in psutil.Process().children() if one.name() == "weed"]
    return float(sum(one.user + one.system for one in times))


def measure(get: Get, names: list[str]) -> tuple[float, float, float]:
    """CPU ms here, wall ms and CPU ms of the server for one GET, many being under way."""
    cpu, wall, server = time.process_time(), time.perf_counter(), server_seconds()
    with ThreadPoolExecutor(MAX_IN_FLIGHT) as pool:
        num_bytes = sum(len(content) for content in pool.map(get, names))
    if num_bytes != len(names) * OBJECT_NUM_BYTES:
        raise SystemExit(f"{num_bytes} bytes came of {len(names)} objects")
    scale = 1000 / len(names)
    spent = (time.process_time() - cpu, time.perf_counter() - wall, server_seconds() - server)
    return spent[0] * scale, spent[1] * scale, spent[2] * scale


@contextmanager
def servers() -> Iterator[tuple[str, str]]:
    """The endpoints of one server, near and far."""
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder)) as near:
        address = urlsplit(near)
        port = address.port or 80
        with relay(address.hostname or "127.0.0.1", port, LATENCY_SECONDS) as far_port:
            yield near, f"http://127.0.0.1:{far_port}"


def fill(endpoint: str, num_objects: int) -> list[str]:
    """The names of objects put there."""
    amazon = s3fs.S3FileSystem(endpoint_url=endpoint, key=KEY, secret=SECRET)
    amazon.mkdir(BUCKET)
    names = [f"S1/B04/{at:04}.JPG" for at in range(num_objects)]
    for name in names:
        amazon.pipe_file(f"{BUCKET}/{name}", os.urandom(OBJECT_NUM_BYTES))
    return names


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def main() -> None:
    """Print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description="CPU per GET, client by client.")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with servers() as (near, far):
        names = fill(near, given.objects)
        at = {"near": clients(near), "far": clients(far)}
        for one in at.values():
            for get in one.values():
                get(names[0])  # connected and imported
        for _ in range(given.rounds):
            for place, gets in at.items():
                for client, get in gets.items():
                    cpu, wall, server = measure(get, names)
                    figures = found.setdefault(client, {})
                    figures.setdefault(f"cpu_{place}", []).append(cpu)
                    figures.setdefault(f"rate_{place}", []).append(1000 / wall)
                    figures.setdefault(f"server_{place}", []).append(server)
    told = {
        client: {key: spread(value) for key, value in figures.items()}
        for client, figures in found.items()
    }
    first = told["s3fs"]
    lines = [
        [
            client,
            text(figures["cpu_near"], digits=2),
            f"{figures['cpu_near']['median'] / first['cpu_near']['median']:.2f}",
            text(figures["server_near"], digits=1),
            text(figures["rate_near"], digits=0),
            text(figures["rate_far"], digits=0),
        ]
        for client, figures in told.items()
    ]
    head = ("client", "CPU ms per GET", "of s3fs", "the server's", "objects/s, near", "50 ms away")
    print(f"{given.objects} objects of {OBJECT_NUM_BYTES / 1e6} MB, {MAX_IN_FLIGHT} in flight")
    print_table(head, lines)
    print(json.dumps({"facts": facts(None), "clients": told}, ensure_ascii=False))


if __name__ == "__main__":
    main()
