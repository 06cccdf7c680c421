"""Several processes on one cache folder, and folders that are full or cannot be written."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from serengeti_etl.load.cached_shards import cached_name
from serengeti_etl.load.shards import BackgroundSource
from serengeti_etl.storage import Store
from tests.fault_server import BUCKET, FaultServer, Stall, fault_server
from tests.hosts import wait_for
from tests.load.random_shards import (
    NUM_BYTES,
    content,
    folder_bytes,
    read,
    shards_at,
    source_of,
    write_shards,
)

NUM_SHARDS = 12
ROOT = Path(__file__).parents[2]

_RANK = """
import json, sys
from serengeti_etl.storage import Store
from tests.load.random_shards import content, read, shards_at, source_of
url, folder, limit, num_epochs, step = sys.argv[1:]
store = Store(url="s3://bucket", options={"endpoint_url": url, "key": "k", "secret": "s"})
source = source_of(shards_at(store, 12), folder, float(limit))
print("ready", flush=True)
sys.stdin.readline()
for epoch in range(int(num_epochs)):
    order = [(number * int(step) + epoch) % 12 for number in range(12)]
    source.schedule(order)
    for number in order:
        assert read(source, number) == (content(number), True), number
        source.release([number])
stats = source.stats()
source.close()
print(json.dumps([stats.num_fetches, stats.num_hits, stats.num_bypassed]))
"""


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A bucket of twelve shards."""
    objects = {f"train/{number:03d}.tar": content(number) for number in range(NUM_SHARDS)}
    with fault_server(objects) as running:
        yield running


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts a process, waiting for a line on its input; all end with the test."""
    started = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _RANK, *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def go(*processes: subprocess.Popen[str]) -> None:
    """Let them all begin."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def figures(process: subprocess.Popen[str]) -> list[int]:
    """Its fetches, hits and shards past the cache, once it has ended well."""
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found: list[int] = json.loads(said)
    return found


def test_processes_of_one_host_fetch_each_shard_once(
    server: FaultServer, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Three ranks in step, over a slow store: one request per shard, and nothing half there."""
    server.on_request = lambda: time.sleep(0.03)
    ranks = [start(server.url, tmp_path, 100, 2, 1) for _ in range(3)]
    go(*ranks)
    fetches = [figures(rank)[0] for rank in ranks]
    assert sum(fetches) == NUM_SHARDS
    assert [server.num_requests(f"train/{k:03d}.tar") for k in range(NUM_SHARDS)] == [1] * 12
    assert len(list(tmp_path.glob("serengeti-*.tar"))) == NUM_SHARDS
    assert not list(tmp_path.glob("*.partial"))


def test_the_limit_holds_with_two_processes(
    server: FaultServer, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Two runs in other orders share a folder for three shards, which never holds more."""
    stranger = tmp_path / "serengeti-mine.tar.gz"
    stranger.write_bytes(b"mine")
    server.on_request = lambda: time.sleep(0.005)
    ranks = [start(server.url, tmp_path, 3, 3, step) for step in (5, 7)]
    go(*ranks)
    most = 0
    while any(rank.poll() is None for rank in ranks):
        most = max(most, folder_bytes(tmp_path))
        time.sleep(0.001)
    most = max(most, folder_bytes(tmp_path))  # they may have been done before the first look
    assert sum(figures(rank)[2] for rank in ranks) < 3 * NUM_SHARDS  # of 6: most by the folder
    assert NUM_BYTES <= most <= 3 * NUM_BYTES
    assert stranger.read_bytes() == b"mine"


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_is_taken_over(
    server: FaultServer,
    tmp_path: Path,
    start: Callable[..., subprocess.Popen[str]],
    kill: signal.Signals,
) -> None:
    """Who waits for another process' fetches brings others, and those once that one is gone."""
    stalled = [f"train/{number:03d}.tar" for number in range(4)]
    for key in stalled:
        server.fail(key, Stall(after=2000), times=1)
    holder = start(server.url, tmp_path, 100, 1, 1)
    go(holder)
    wait_for(lambda: server.num_faults == 4, "the holder's requests")
    waiter = start(server.url, tmp_path, 100, 1, 1)
    go(waiter)
    wait_for(lambda: any(tmp_path.glob("serengeti-*.tar")), "another shard")
    assert waiter.poll() is None
    assert {server.num_requests(key) for key in stalled} == {1}
    holder.send_signal(kill)
    assert figures(waiter)[2] == 0
    assert {server.num_requests(key) for key in stalled} == {2}
    assert not list(tmp_path.glob("*.partial"))


def test_what_another_process_fetched_just_now_is_not_checked_again(
    server: FaultServer, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """Who waited for the fetch takes its file for checked; it is hashed once, by the fetcher."""
    may_answer = threading.Event()
    server.on_request = lambda: may_answer.wait(120)
    holder = start(server.url, tmp_path, 100, 1, 1)
    go(holder)
    wait_for(lambda: len(server.requests) == 4, "the holder's requests")
    source = source_of(shards_at(store_of(server), 4), tmp_path)
    source.begin(range(4))
    waiting = cast("BackgroundSource", source)
    wait_for(lambda: waiting._num_running == 0, "the wait for the holder")
    may_answer.set()
    assert [read(source, k) for k in range(4)] == [(content(k), True) for k in range(4)]
    stats = source.stats()
    source.close()
    assert (stats.num_fetches, stats.num_hits, stats.seconds_checking) == (0, 4, 0.0)
    figures(holder)


def test_what_a_killed_process_left_is_taken_over_later(
    server: FaultServer, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    """A partial file of an earlier run is neither used as it is nor in the way."""
    server.fail("train/000.tar", Stall(after=2000), times=1)
    holder = start(server.url, tmp_path, 100, 1, 1)
    go(holder)
    wait_for(lambda: server.num_faults == 1, "the holder's request")
    holder.kill()
    holder.wait()
    shards = shards_at(store_of(server), 1)
    partial = tmp_path / f"{cached_name(shards[0])}.partial"  # it may have left others as well
    assert partial.exists()
    source = source_of(shards, tmp_path)
    assert read(source, 0) == (content(0), True)
    source.close()
    assert not partial.exists()


def store_of(server: FaultServer) -> Store:
    """The bucket."""
    options = {"endpoint_url": server.url, "key": "k", "secret": "s"}
    return Store(url=f"s3://{BUCKET}", options=options)


@pytest.mark.parametrize("num_blocks", [1, 2, 5])
def test_a_full_disk_does_not_stop_the_reader(
    server: FaultServer,
    disk: tuple[Path, Callable[[str], None]],
    caplog: pytest.LogCaptureFixture,
    num_blocks: int,
) -> None:
    """What has no room goes through memory, which is logged once; with room it is cached again."""
    folder, remount = disk
    shards = shards_at(store_of(server), NUM_SHARDS)
    remount(f"size={num_blocks * 4096}")
    source = source_of(shards, folder)
    for _ in range(2):
        source.schedule(range(NUM_SHARDS))
        for number in range(NUM_SHARDS):
            assert read(source, number) == (content(number), True)
            source.release([number])
    assert source.stats().num_bypassed > 0
    assert sum("cannot take" in text for text in caplog.messages) == 1
    assert "No space left on device" in caplog.text
    assert not list(folder.glob("*.partial"))
    remount("size=1m")
    source.schedule(range(NUM_SHARDS))
    for number in range(NUM_SHARDS):
        assert read(source, number) == (content(number), True)
    source.close()
    assert len(list(folder.glob("serengeti-*.tar"))) == NUM_SHARDS


def test_a_disk_that_fills_up_in_between_does_not_stop_the_reader(
    server: FaultServer, disk: tuple[Path, Callable[[str], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where room cannot be reserved, a write that fails is met the same way."""
    folder, remount = disk
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: None)
    remount(f"size={5 * 4096}")
    source = source_of(shards_at(store_of(server), NUM_SHARDS), folder)
    for number in range(NUM_SHARDS):
        assert read(source, number) == (content(number), True)
    assert source.stats().num_bypassed > 0
    source.close()
    assert not list(folder.glob("*.partial"))


def test_a_folder_that_cannot_be_written_is_read_all_the_same(
    server: FaultServer,
    disk: tuple[Path, Callable[[str], None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """From a disk mounted read-only, what is cached comes from there, the rest by memory."""
    folder, remount = disk
    shards = shards_at(store_of(server), 3)
    writer = source_of(shards, folder)
    read(writer, 1)
    writer.close()
    remount("ro")
    source = source_of(shards, folder)
    assert [read(source, k) for k in range(3)] == [(content(k), True) for k in range(3)]
    stats = source.stats()
    source.close()
    assert (stats.num_hits, stats.num_bypassed) == (1, 2)
    assert sum("Read-only file system" in text for text in caplog.messages) == 1


def test_a_real_bucket_is_cached_and_cut_shards_are_seen(
    make_bucket: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real S3 server, by several requests per shard: right bytes, and a cut tar is told."""
    from serengeti_etl.load import shard_fetch

    monkeypatch.setattr(shard_fetch, "PART_NUM_BYTES", 1200)
    store = Store(url=f"{make_bucket('shards')}/dataset")
    shards = write_shards(store, 4)
    store.write("train/002.tar", content(2)[:2500])
    source = source_of(shards, tmp_path)
    source.schedule(range(4))
    for number in range(4):
        expected = (content(2)[:2500], False) if number == 2 else (content(number), True)
        assert read(source, number) == expected
    source.close()
    expected_files = {cached_name(shards[number]) for number in (0, 1, 3)}
    assert {path.name for path in tmp_path.glob("*.tar")} == expected_files
