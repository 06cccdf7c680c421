"""Shards of which few samples are wanted: those alone are read, and never taken for checked."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from serengeti_etl.errors import ShardError
from serengeti_etl.load import sparse_shards
from serengeti_etl.load.shard_source import CacheSettings
from serengeti_etl.load.shards import open_source
from serengeti_etl.load.sparse_shards import MAX_GAP_NUM_BYTES, HeldSpans, spans_of
from serengeti_etl.storage import Store
from tests.fault_server import BUCKET, INTERNAL_ERROR, FaultServer, fault_server
from tests.hosts import wait_for
from tests.load.random_shards import NUM_BYTES, content, read, shards_at, write_shards

WANTED = [(4000, 4100), (50, 150), (200, 300)]
"""Two of the three lie near each other."""


@pytest.fixture
def small_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps of 100 bytes are read along, and no larger ones."""
    monkeypatch.setattr(sparse_shards, "MAX_GAP_NUM_BYTES", 100)


@pytest.fixture
def server(small_gaps: None) -> Iterator[FaultServer]:  # noqa: ARG001 - goes with it
    """A bucket of three shards."""
    objects = {f"train/{number:03d}.tar": content(number) for number in range(3)}
    with fault_server(objects) as running:
        yield running


def store_of(server: FaultServer) -> Store:
    """The bucket."""
    options = {"endpoint_url": server.url, "key": "k", "secret": "s"}
    return Store(url=f"s3://{BUCKET}", options=options)


def table(spans: list[tuple[int, int]]) -> NDArray[np.int64]:
    """As the index has them."""
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


@pytest.mark.parametrize("folder", [None, "cache"])
def test_only_what_is_wanted_is_fetched(
    server: FaultServer, tmp_path: Path, folder: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Neighbours come by one request; the shard says that it is not whole, which is no damage."""
    settings = CacheSettings(folder=str(tmp_path / folder) if folder else None)
    shards = shards_at(store_of(server), 3)
    source = open_source(shards, settings, {1: table(WANTED)})
    source.schedule([1])
    source.begin([1])
    opened = source.open(1)
    assert not opened.is_whole
    for start, end in WANTED:
        assert bytes(opened.read(start, end - start)) == content(1)[start:end]
    for start in (0, 1000, 4100):
        assert bytes(opened.read(start, 10)) == b""
    opened.close()
    ranges = {request.byte_range for request in server.requests}
    assert ranges == {"bytes=50-299", "bytes=4000-4099"}
    stats = source.stats()
    assert (stats.num_bytes_fetched, stats.num_damaged, caplog.messages) == (350, 0, [])
    assert read(source, 0) == (content(0), True)
    source.close()


def test_from_a_quarter_on_a_shard_is_brought_whole(server: FaultServer, tmp_path: Path) -> None:
    """What is read along counts: it costs as much."""
    wanted = {0: table([(0, 1250)]), 1: table([(0, 1249)]), 2: table([(0, 600), (700, 1300)])}
    settings = CacheSettings(folder=str(tmp_path))
    source = open_source(shards_at(store_of(server), 3), settings, wanted)
    is_whole = [read(source, number)[1] for number in range(3)]
    source.close()
    assert is_whole == [True, False, True]
    assert len(list(tmp_path.glob("*.tar"))) == 2


@pytest.mark.usefixtures("small_gaps")
def test_a_local_shard_of_which_little_is_wanted_is_not_read_whole(tmp_path: Path) -> None:
    """It is read in place without being hashed, and says that it is not checked."""
    shards = write_shards(Store(url=str(tmp_path)), 2)
    source = open_source(shards, CacheSettings(), {1: table(WANTED)})
    assert read(source, 1) == (content(1), False)
    assert source.stats().seconds_checking == 0
    assert source.stats().num_damaged == 0
    source.close()


@pytest.mark.parametrize("size", [0, 100, 4000, 4050])
def test_a_cut_shard_gives_what_is_there(server: FaultServer, size: int) -> None:
    """Samples past the end are short, those before it are right."""
    server.objects["train/001.tar"] = content(1)[:size]
    source = open_source(
        shards_at(store_of(server), 2), CacheSettings(folder=None), {1: table(WANTED)}
    )
    opened = source.open(1)
    for start, end in WANTED:
        assert bytes(opened.read(start, end - start)) == content(1)[start : min(end, size)]
    source.close()


def test_a_missing_shard_and_an_outage_are_told(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same errors as of a whole shard."""
    from serengeti_etl import retry

    monkeypatch.setattr(retry, "_LONGEST_WAIT_SECONDS", 0.01)
    del server.objects["train/000.tar"]
    server.fail("train/001.tar", INTERNAL_ERROR)
    wanted = {0: table(WANTED), 1: table(WANTED)}
    source = open_source(shards_at(store_of(server), 2), CacheSettings(folder=None), wanted)
    with pytest.raises(ShardError, match="shard 000 is missing"):
        source.open(0)
    with pytest.raises(ShardError, match="shard 001 cannot be read"):
        source.open(1)
    source.close()


def test_reading_ahead_counts_what_is_wanted(server: FaultServer) -> None:
    """Within a bound far below one shard, the wanted parts of the next ones are read ahead."""
    wanted = {number: table(WANTED) for number in range(3)}
    settings = CacheSettings(folder=None, limit_bytes=NUM_BYTES, ahead_bytes=750)
    source = open_source(shards_at(store_of(server), 3), settings, wanted)
    source.schedule(range(3))
    source.begin([0])
    wait_for(lambda: source.stats().num_bytes_fetched == 3 * 350, "reading ahead")
    source.close()


def test_what_was_not_wanted_is_missing() -> None:
    """Before, between and after the spans there is nothing; within them there are their bytes."""
    held = HeldSpans([(50, 60), (80, 83)], [b"0123456789", b"abc"])
    opened = held.open()
    expected = {0: b"", 45: b"", 50: b"0123", 58: b"89", 60: b"", 79: b"", 80: b"abc", 83: b""}
    assert {offset: bytes(opened.read(offset, 4)) for offset in expected} == expected
    assert bytes(HeldSpans([(50, 60)], [b"0123456789"]).read(45, 4)) == b""


@given(
    wanted=st.lists(st.tuples(st.integers(0, 10**7), st.integers(1, 10**6)), max_size=30).map(
        lambda pairs: [(start, start + size) for start, size in pairs]
    )
)
def test_spans_hold_all_that_is_wanted(wanted: list[tuple[int, int]]) -> None:
    """Each wanted part lies in one span; spans are in order, and far enough from each other."""
    spans = spans_of(table(wanted))
    for start, end in wanted:
        assert sum(first <= start and end <= last for first, last in spans) == 1
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start - end > MAX_GAP_NUM_BYTES
    assert {start for start, _ in spans} <= {start for start, _ in wanted}
    assert {end for _, end in spans} <= {end for _, end in wanted}
