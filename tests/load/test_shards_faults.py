"""Sources of shards over a store that fails: what passes unseen, and what ends in which error."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from serengeti_etl import retry
from serengeti_etl.errors import ShardError
from serengeti_etl.load import shard_fetch
from serengeti_etl.load.shard_source import Shard
from serengeti_etl.storage import Store
from tests.fault_server import (
    ACCESS_DENIED,
    BUCKET,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    EarlyClose,
    Fault,
    FaultServer,
    FlippedByte,
    Reset,
    Stall,
    fault_server,
)
from tests.hosts import wait_for
from tests.load.random_shards import content, read, shards_at, source_of

# Where requests are counted it is not in force: a pause of the machine would look like a stall.
impatient = pytest.mark.usefixtures("impatient")

NUM_SHARDS = 4
ROOT = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A bucket of four shards."""
    objects = {f"train/{number:03d}.tar": content(number) for number in range(NUM_SHARDS)}
    with fault_server(objects) as running:
        yield running


@pytest.fixture(params=["whole", "parts"])
def shards(server: FaultServer, request: pytest.FixtureRequest) -> list[Shard]:
    """The shards, fetched by one request each or by several."""
    if request.param == "parts":
        request.getfixturevalue("monkeypatch").setattr(shard_fetch, "PART_NUM_BYTES", 1200)
    return shards_at(store_of(server), NUM_SHARDS)


def store_of(server: FaultServer) -> Store:
    """The bucket."""
    options = {"endpoint_url": server.url, "key": "k", "secret": "s"}
    return Store(url=f"s3://{BUCKET}", options=options)


@impatient
@pytest.mark.parametrize(
    "fault",
    [
        SLOW_DOWN,
        INTERNAL_ERROR,
        Reset(),
        Reset(after=500),
        EarlyClose(after=500),
        EarlyClose(after=500, has_length=False),
        Stall(after=500),
        FlippedByte(at=321),
    ],
    ids=repr,
)
def test_a_fault_that_passes_is_not_seen(
    server: FaultServer, shards: list[Shard], tmp_path: Path, fault: Fault
) -> None:
    """Each shard fails once or twice, and all bytes are right."""
    for number in range(NUM_SHARDS):
        times = 1 if isinstance(fault, FlippedByte | Stall) else 2
        server.fail(f"train/{number:03d}.tar", fault, times)
    source = source_of(shards, tmp_path / "cache")
    source.schedule(range(NUM_SHARDS))
    for number in range(NUM_SHARDS):
        assert read(source, number) == (content(number), True)
    source.close()
    assert server.num_faults >= NUM_SHARDS


@impatient
@pytest.mark.parametrize("fault", [INTERNAL_ERROR, Reset(after=500), Stall(after=500)], ids=repr)
def test_an_outage_ends_in_one_clear_error(
    server: FaultServer, shards: list[Shard], tmp_path: Path, fault: Fault
) -> None:
    """After all tries the error names shard, url, cause; once it is over the shard is served."""
    server.fail("train/002.tar", fault)
    source = source_of(shards, tmp_path / "cache")
    with pytest.raises(ShardError) as caught:
        read(source, 2)
    said = str(caught.value)
    assert said.startswith(f"shard 002 cannot be read from s3://{BUCKET}/train/002.tar (")
    assert "the same command goes on" in said
    assert server.num_requests("train/002.tar") >= retry.NUM_ATTEMPTS
    server.heal("train/002.tar")
    assert read(source, 2) == (content(2), True)
    source.close()
    assert not list((tmp_path / "cache").glob("*.partial"))


@impatient
def test_an_outage_ahead_of_need_is_tried_again_at_need(
    server: FaultServer, shards: list[Shard], tmp_path: Path
) -> None:
    """What failed while it was read ahead costs nothing if the store is well again in time."""
    server.fail("train/001.tar", INTERNAL_ERROR)
    source = source_of(shards, tmp_path / "cache")
    source.schedule(range(NUM_SHARDS))
    while server.num_requests("train/001.tar") < retry.NUM_ATTEMPTS:
        time.sleep(0.01)
    server.heal("train/001.tar")
    assert read(source, 1) == (content(1), True)
    source.close()


@pytest.mark.parametrize("fault", [ACCESS_DENIED, EXPIRED_TOKEN], ids=repr)
def test_a_refusal_is_an_error_at_once(
    server: FaultServer, shards: list[Shard], tmp_path: Path, fault: Fault
) -> None:
    """Without permission nothing is tried again and again."""
    server.fail("train/000.tar", fault)
    source = source_of(shards, tmp_path / "cache")
    with pytest.raises(ShardError, match="shard 000 cannot be read"):
        read(source, 0)
    source.close()
    assert server.num_requests("train/000.tar") <= 2 * shard_fetch.NUM_PARTS_AT_ONCE


@pytest.mark.parametrize("size", [0, 1, 1199, 1200, 1201, 4800, 4999])
def test_a_cut_object_is_handed_out_as_it_is(
    server: FaultServer, shards: list[Shard], tmp_path: Path, size: int
) -> None:
    """Wherever an object ends, it takes no tries to see it, and the reader is told."""
    server.objects["train/001.tar"] = content(1)[:size]
    source = source_of(shards, tmp_path / "cache")
    assert read(source, 1) == (content(1)[:size], False)
    assert source.stats().num_refetched == 1
    source.close()
    assert server.num_requests("train/001.tar") <= 6


def test_many_requests_for_one_shard_are_under_way(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A shard of several parts is asked for by several requests at once, and no part twice."""
    several = threading.Event()

    def wait_for_another() -> None:
        if server.max_in_flight > 1:
            several.set()
        several.wait(10)
        time.sleep(0.05)

    monkeypatch.setattr(shard_fetch, "PART_NUM_BYTES", 400)
    server.on_request = wait_for_another
    source = source_of(shards_at(store_of(server), 1), tmp_path)
    assert read(source, 0) == (content(0), True)
    source.close()
    # The server counts an answer until it is sent: it may overlap with the next request.
    assert 1 < server.max_in_flight <= 2 * shard_fetch.NUM_PARTS_AT_ONCE
    ranges = [request.byte_range for request in server.requests]
    assert len(ranges) == len(set(ranges)) == 13


def test_closing_ends_a_fetch_at_the_next_part(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a shard in many parts no more are asked for, and its file goes."""
    may_answer = threading.Event()
    monkeypatch.setattr(shard_fetch, "PART_NUM_BYTES", 100)
    server.on_request = lambda: may_answer.wait(120)
    source = source_of(shards_at(store_of(server), 1), tmp_path)
    source.begin([0])
    wait_for(lambda: len(server.requests) > 1, "the first requests")
    source.close()
    may_answer.set()
    wait_for(lambda: not list(tmp_path.glob("*.partial")), "the end of the fetch")
    assert len(server.requests) < 50


_WAITING = """
import sys
from serengeti_etl.load.shard_source import CacheSettings
from serengeti_etl.load.shards import open_source
from serengeti_etl.storage import Store
from tests.load.random_shards import shards_at
url, folder, how = sys.argv[1:]
store = Store(url="s3://bucket", options={"endpoint_url": url, "key": "k", "secret": "s"})
source = open_source(shards_at(store, 4), CacheSettings(folder=folder or None))
source.schedule(range(4))
source.begin([0])
sys.stdin.readline()
if how == "close":
    source.close()
elif how == "raise":
    raise SystemExit(7)
"""


@pytest.mark.parametrize("how", ["close", "raise", "end"])
@pytest.mark.parametrize("folder", ["", "cache"])
def test_a_dead_store_does_not_keep_a_script_from_ending(
    server: FaultServer, tmp_path: Path, how: str, folder: str
) -> None:
    """A process whose fetches hang ends at once, closed or not, by itself or by an error."""
    for number in range(4):
        server.fail(f"train/{number:03d}.tar", Stall(after=100))
    place = str(tmp_path / folder) if folder else ""
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, server.url, place, how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while server.num_faults < 4:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    _, said = process.communicate(b"go\n", timeout=60)
    assert (process.returncode, said) == (7 if how == "raise" else 0, b"")


def test_threads_that_wait_for_one_shard_share_one_fetch(
    server: FaultServer, tmp_path: Path
) -> None:
    """Ten threads that open a shard at once cost one request."""
    server.on_request = lambda: time.sleep(0.1)
    source = source_of(shards_at(store_of(server), 1), tmp_path)
    source.schedule([0])
    source.begin([0])
    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(lambda _: read(source, 0), range(10))) == {(content(0), True)}
    source.close()
    assert server.num_requests("train/000.tar") == 1
