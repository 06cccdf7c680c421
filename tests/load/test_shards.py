"""Sources of shards: in place, through a cache folder, through memory."""

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from serengeti_etl.errors import ConfigError, ShardError
from serengeti_etl.load import shard_fetch
from serengeti_etl.load.cache_folder import CacheFolder, Claim
from serengeti_etl.load.cached_shards import cached_name
from serengeti_etl.load.held_shards import Identity
from serengeti_etl.load.shard_source import CacheSettings, Shard
from serengeti_etl.load.shards import open_source
from serengeti_etl.storage import Store
from tests.hosts import wait_for
from tests.load.random_shards import NUM_BYTES, content, folder_bytes, read, source_of, write_shards


@pytest.fixture
def bucket() -> Iterator[Store]:
    """A bucket in memory that ends with the test."""
    url = f"memory://{uuid.uuid4().hex}"
    yield Store(url=url)
    with contextlib.suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(url, recursive=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shard takes several requests."""
    monkeypatch.setattr(shard_fetch, "PART_NUM_BYTES", 1200)


def flipped(whole: bytes, at: int = 777) -> bytes:
    """The same but for one bit."""
    return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def cached(folder: Path) -> set[str]:
    """Names of the whole files in a cache folder."""
    return {path.name for path in folder.glob(f"serengeti-{'?' * 64}.tar")}


def rewrite(path: Path, content: bytes) -> None:
    """Write other content, later than the clock of the file system could still call the same."""
    path.write_bytes(content)
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def names(shards: list[Shard]) -> set[str]:
    """What their files are called in a cache folder."""
    return {cached_name(shard) for shard in shards}


def place(folder: Path, shard: Shard) -> Path:
    """Where a shard's file is in a cache folder."""
    return folder / cached_name(shard)


@pytest.mark.parametrize("kind", ["local", "memory", "cache", "cache in parts", "memory in parts"])
def test_every_shard_is_handed_out_with_its_bytes(
    kind: str, bucket: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whatever the way, all bytes are right, twice, and a read past the end is short."""
    if "parts" in kind:
        request.getfixturevalue("small_parts")
    store = Store(url=str(tmp_path / "dataset")) if kind == "local" else bucket
    source = source_of(write_shards(store, 6), tmp_path / "cache" if "cache" in kind else None)
    for _ in range(2):
        source.schedule(range(6))
        assert [read(source, number) for number in range(6)] == [
            (content(number), True) for number in range(6)
        ]
        source.release(range(6))
    opened = source.open(3)
    assert bytes(opened.read(NUM_BYTES - 3, 10)) == content(3)[-3:]
    assert bytes(opened.read(100, 10)) == content(3)[100:110]
    opened.close()
    source.close()


def test_local_and_far_shards_mix(bucket: Store, tmp_path: Path) -> None:
    """One source serves shards of several stores, each its own."""
    local = write_shards(Store(url=str(tmp_path / "dataset")), 3)
    far = write_shards(bucket, 3, "val")
    source = source_of([*local, *far], tmp_path / "cache")
    got = [read(source, number)[0] for number in range(6)]
    assert got == [content(number, split) for split in ("train", "val") for number in range(3)]
    source.close()
    assert cached(tmp_path / "cache") == names(far)


def test_shards_of_one_number_do_not_meet(bucket: Store, tmp_path: Path) -> None:
    """``train/000.tar`` and ``val/000.tar`` in one folder are two files."""
    train, val = write_shards(bucket, 1), write_shards(bucket, 1, "val")
    for shards, split in ((train, "train"), (val, "val"), (train, "train")):
        source = source_of(shards, tmp_path)
        assert read(source, 0) == (content(0, split), True)
        source.close()
    assert cached(tmp_path) == names([*train, *val])


def test_a_second_epoch_and_a_second_run_fetch_nothing(bucket: Store, tmp_path: Path) -> None:
    """What fits the cache is fetched once."""
    shards = write_shards(bucket, 5)
    for num_expected in (5, 0):
        source = source_of(shards, tmp_path)
        for _ in range(2):
            source.schedule(range(5))
            for number in range(5):
                read(source, number)
                source.release([number])
        assert source.stats().num_fetches == num_expected
        source.close()


def test_shards_arrive_ahead_of_need_as_far_as_allowed(bucket: Store, tmp_path: Path) -> None:
    """Of ten shards, the one in use and the next three are brought, and no more."""
    source = source_of(shards := write_shards(bucket, 10), tmp_path, num_ahead=3)
    source.schedule([7, 2, 5, 0, 1, 3, 4, 6, 8, 9])
    source.begin([7])
    expected = names([shards[number] for number in (7, 2, 5, 0)])
    wait_for(lambda: cached(tmp_path) == expected, "reading ahead")
    time.sleep(0.05)
    assert cached(tmp_path) == expected
    source.close()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_folder_stays_within_its_size(bucket: Store, tmp_path: Path, limit: int) -> None:
    """Two epochs through a smaller cache: never more bytes, and strangers' files stay."""
    source = source_of(write_shards(bucket, 8), tmp_path, limit)
    strangers = [tmp_path / name for name in ("serengeti-notes.tar", "x.tar.partial")]
    for path in strangers:
        path.write_bytes(bytes(NUM_BYTES))
    for order in (range(8), range(7, -1, -1)):
        source.schedule(order)
        for number in order:
            assert read(source, number) == (content(number), True)
            source.release([number])
            assert folder_bytes(tmp_path) <= limit * NUM_BYTES
    source.close()
    assert all(path.stat().st_size == NUM_BYTES for path in strangers)


def test_a_shard_of_the_window_is_not_fetched_twice(bucket: Store, tmp_path: Path) -> None:
    """Two shards used in turn stay until released, though read-ahead would like their room."""
    source = source_of(write_shards(bucket, 8), tmp_path, num_limit=3)
    source.schedule(range(8))
    for window in range(0, 8, 2):
        for _ in range(3):
            read(source, window)
            read(source, window + 1)
        source.release([window, window + 1])
    assert source.stats().num_fetches == 8
    source.close()


def test_released_shards_make_room_first(bucket: Store, tmp_path: Path) -> None:
    """In a full folder a released shard goes, not one that is still to come."""
    shards = write_shards(bucket, 4)
    earlier = source_of(shards, tmp_path)
    for number in (2, 0, 1):
        read(earlier, number)
    earlier.close()
    source = source_of(shards, tmp_path, num_limit=3, num_ahead=0)
    source.schedule([0, 1, 3, 2])
    for number in (0, 1, 3):
        read(source, number)
        source.release([number])
        assert place(tmp_path, shards[2]).exists()
    assert source.stats().num_fetches == 1
    source.close()


def test_more_than_the_limit_may_be_in_use_at_once(
    bucket: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches that need three shards get them, though the cache takes two; that is logged once."""
    source = source_of(shards := write_shards(bucket, 5), tmp_path, num_limit=2)
    source.schedule(range(5))
    source.begin([0, 1, 2])
    opened = [source.open(number) for number in range(3)]
    assert [bytes(one.read(0, NUM_BYTES)) for one in opened] == [content(k) for k in range(3)]
    assert len(cached(tmp_path)) == 2
    assert source.stats().num_bypassed == 1
    for one in opened:
        one.close()
    source.end([0, 1, 2])
    source.release([0, 1, 2])
    assert read(source, 3) == (content(3), True)
    assert place(tmp_path, shards[3]).exists()
    assert folder_bytes(tmp_path) <= 2 * NUM_BYTES
    source.close()
    assert sum("raise it" in text for text in caplog.messages) == 1


def test_memory_is_bounded(bucket: Store) -> None:
    """Without a folder no more than the limit is held, whatever is to come; released ones go."""
    source = source_of(write_shards(bucket, 9), None, num_limit=3, num_ahead=9)
    source.schedule(range(9))
    source.begin([0])
    wait_for(lambda: source.stats().num_fetches == 3, "reading ahead")
    time.sleep(0.05)
    assert source.stats().num_fetches == 3
    source.end([0])
    source.release([0])
    wait_for(lambda: source.stats().num_fetches == 4, "reading ahead")
    source.close()


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_a_damaged_file_in_the_cache_is_fetched_anew(
    bucket: Store, tmp_path: Path, change: str
) -> None:
    """What an earlier run left is checked before its first use, and what changes in this run."""
    shards = write_shards(bucket, 1)
    path = place(tmp_path, shards[0])
    bad = {"flip": flipped(content(0)), "cut": content(0)[:-1], "empty": b""}[change]
    source = source_of(shards, tmp_path)
    assert read(source, 0) == (content(0), True)
    rewrite(path, bad)
    assert read(source, 0) == (content(0), True)
    source.close()
    assert path.read_bytes() == content(0)
    path.write_bytes(bad)
    later = source_of(shards, tmp_path)
    assert read(later, 0) == (content(0), True)
    assert later.stats().num_fetches == 1
    later.close()


@pytest.fixture(params=["memory", "cache", "memory in parts", "cache in parts"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A cache folder or none, of shards that take one request or several."""
    if "parts" in request.param:
        request.getfixturevalue("small_parts")
    return tmp_path / "cache" if "cache" in request.param else None


@pytest.mark.parametrize("change", ["flip", "cut", "long"])
def test_damage_at_the_source_is_told(
    bucket: Store, cache: Path | None, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Fetched once more, then handed out as not whole, counted and logged; never cached."""
    shards = write_shards(bucket, 2)
    whole = content(1)
    bad = {"flip": flipped(whole), "cut": whole[:3000], "long": flipped(whole) + b"x"}[change]
    bucket.write("train/001.tar", bad)
    source = source_of(shards, cache)
    assert read(source, 1) == (bad, False)
    assert read(source, 1) == (bad, False)
    assert read(source, 0) == (content(0), True)
    stats = source.stats()
    assert (stats.num_damaged, stats.num_refetched) == (1, 2)
    source.close()
    assert sum("001.tar does not match" in text for text in caplog.messages) == 1
    if cache:
        assert cached(cache) == names(shards[:1])
        assert not list(cache.glob("*.partial"))


@pytest.mark.parametrize("folder", [None, "cache"])
def test_damage_on_the_way_costs_one_more_fetch(
    bucket: Store, tmp_path: Path, folder: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that flipped once is not seen by the reader."""
    shards = write_shards(bucket, 1)
    answers = [flipped(content(0)), content(0)]
    monkeypatch.setattr(Store, "read", lambda *_: answers.pop(0))
    source = source_of(shards, tmp_path / folder if folder else None)
    assert read(source, 0) == (content(0), True)
    assert source.stats().num_refetched == 1
    source.close()
    assert not answers


@pytest.mark.parametrize("kind", ["local", "memory", "cache"])
def test_a_missing_shard_is_an_error_that_helps(kind: str, bucket: Store, tmp_path: Path) -> None:
    """It names shard, url and what to do, each time; the others are served."""
    store = Store(url=str(tmp_path / "dataset")) if kind == "local" else bucket
    shards = write_shards(store, 2)
    store.delete("train/001.tar")
    source = source_of(shards, tmp_path / "cache" if kind == "cache" else None)
    source.schedule(range(2))
    assert read(source, 0) == (content(0), True)
    for _ in range(2):
        with pytest.raises(ShardError) as caught:
            read(source, 1)
        said = str(caught.value)
        assert "shard 001 is missing" in said
        assert f"{store.url}/train/001.tar" in said
        assert f"`serengeti-etl verify {store.url}`" in said
    write_shards(store, 2)
    assert read(source, 1) == (content(1), True)
    source.close()


@pytest.mark.parametrize("change", ["flip", "cut"])
def test_damage_of_a_local_shard_is_told(
    tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every local shard is checked before its first use, and again when it was changed since."""
    shards = write_shards(Store(url=str(tmp_path)), 2)
    bad = flipped(content(1)) if change == "flip" else content(1)[:-1]
    (tmp_path / "train" / "001.tar").write_bytes(bad)
    source = source_of(shards, None)
    source.schedule(range(2))
    assert read(source, 0) == (content(0), True)
    assert read(source, 1) == (bad, False)
    rewrite(tmp_path / "train" / "000.tar", flipped(content(0)))
    assert read(source, 0) == (flipped(content(0)), False)
    assert source.stats().num_damaged == 2
    source.close()
    assert f"serengeti-etl verify {tmp_path}" in caplog.text


def test_local_shards_are_checked_ahead_within_the_bound(tmp_path: Path) -> None:
    """The check of the next shards is over before they are needed, of later ones not begun."""
    shards = write_shards(Store(url=str(tmp_path)), 6)
    for number in (2, 5):
        (tmp_path / "train" / f"{number:03d}.tar").write_bytes(flipped(content(number)))
    source = source_of(shards, None, num_ahead=3)
    source.schedule(range(6))
    wait_for(lambda: source.stats().num_damaged == 1, "the check")
    source.begin(range(3))
    wait_for(lambda: source.stats().num_damaged == 2, "the check of what is next")
    source.close()


def test_without_checks_only_the_size_counts(tmp_path: Path, bucket: Store) -> None:
    """``check=False`` reads no file to check it, and takes what has the right size."""
    local = write_shards(Store(url=str(tmp_path / "dataset")), 1)
    far = write_shards(bucket, 1)
    for shard in (*local, *far):
        shard.store.write(shard.info.tar_name, flipped(content(0)))
    settings = CacheSettings(folder=str(tmp_path / "cache"), check=False)
    source = open_source([*local, *far], settings)
    assert read(source, 0) == read(source, 1) == (flipped(content(0)), True)
    assert source.stats().seconds_checking == 0
    source.close()


def test_a_deleted_file_comes_back(bucket: Store, tmp_path: Path) -> None:
    """A file that somebody removed between two batches is fetched again, not missed."""
    shards = write_shards(bucket, 2)
    source = source_of(shards, tmp_path)
    source.schedule(range(2))
    for _ in range(3):
        assert read(source, 0) == (content(0), True)
        place(tmp_path, shards[0]).unlink()
    assert source.stats().num_fetches >= 3
    source.close()


def test_a_file_that_is_deleted_each_time_before_it_is_read_is_passed_by(
    bucket: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where other runs need the folder for themselves, a shard goes through memory in the end."""
    shards = write_shards(bucket, 1)
    placed = CacheFolder.place

    def lose(folder: CacheFolder, claim: Claim) -> Identity:
        identity = placed(folder, claim)
        place(tmp_path, shards[0]).unlink()
        return identity

    monkeypatch.setattr(CacheFolder, "place", lose)
    source = source_of(shards, tmp_path)
    assert read(source, 0) == (content(0), True)
    assert source.stats().num_bypassed == 1
    source.close()


def test_what_is_in_use_is_not_deleted_by_others(bucket: Store, tmp_path: Path) -> None:
    """Another run that needs the room leaves a shard that a batch reads, and takes it after."""
    shards = write_shards(bucket, 4)
    mine, other = source_of(shards, tmp_path), source_of(shards[1:], tmp_path, num_limit=1)
    mine.schedule([0])
    mine.begin([0])
    mine.open(0).close()
    for number in range(3):
        assert read(other, number) == (content(number + 1), True)
    assert place(tmp_path, shards[0]).exists()
    mine.end([0])
    read(other, 0)
    assert not place(tmp_path, shards[0]).exists()
    assert read(mine, 0) == (content(0), True)
    mine.close()
    other.close()


def test_files_of_old_and_killed_runs_go_before_those_of_others(
    bucket: Store, tmp_path: Path
) -> None:
    """First what a killed process left, then what was unused for long, then the rest."""
    shards = write_shards(bucket, 5)
    before = source_of(shards[:3], tmp_path)
    for number in range(3):
        read(before, number)
    before.close()
    os.utime(place(tmp_path, shards[2]), (time.time() - 10_000, time.time()))
    left = tmp_path / f"serengeti-{'0' * 64}.tar.partial"
    left.write_bytes(bytes(NUM_BYTES))
    source = source_of(shards[3:], tmp_path, num_limit=4, num_ahead=0)
    read(source, 0)
    assert not left.exists()
    assert cached(tmp_path) == names(shards[:4])
    read(source, 1)
    assert cached(tmp_path) == names([*shards[:2], *shards[3:]])
    source.close()


def test_closing_frees_who_waits(bucket: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """``close`` returns at once though the store does not answer, and so does ``open``."""
    shards = write_shards(bucket, 3)
    is_asked, may_answer = threading.Event(), threading.Event()

    def read_for_ever(*_: object) -> bytes:
        is_asked.set()
        may_answer.wait(60)
        return b""

    monkeypatch.setattr(Store, "read", read_for_ever)
    source = source_of(shards, None)
    source.schedule(range(3))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(source.open, 0)
        assert is_asked.wait(30)
        source.close()
        with pytest.raises(ShardError, match="its source was closed"):
            waiting.result(timeout=30)
    with pytest.raises(ShardError, match="its source was closed"):
        source.open(1)
    may_answer.set()


def num_open_files() -> int:
    """Of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.usefixtures("small_parts")
def test_closing_ends_all_threads_and_files(bucket: Store, tmp_path: Path) -> None:
    """After ``close``, also in the midst of reading ahead, nothing of a source is left over."""
    before, num_files = set(threading.enumerate()), num_open_files()
    shards = write_shards(bucket, 8)
    for _ in range(5):
        source = source_of(shards, tmp_path)
        source.schedule(range(8))
        source.begin([0, 1])
        source.open(0).close()
        source.close()
    wait_for(lambda: before.issuperset(threading.enumerate()), "the end of all threads")
    assert num_open_files() <= num_files


def test_a_folder_that_cannot_be_made_is_passed_by(
    bucket: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a file in the folder's place all shards go through memory; that is logged once."""
    folder = tmp_path / "file" / "cache"
    (tmp_path / "file").write_text("in the way")
    source = source_of(write_shards(bucket, 4), folder)
    source.schedule(range(4))
    assert [read(source, k) for k in range(4)] == [(content(k), True) for k in range(4)]
    assert source.stats().num_bypassed >= 4
    source.close()
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1
    assert str(folder) in said[0].getMessage()


def test_many_threads_read_at_once(bucket: Store, tmp_path: Path) -> None:
    """Eight threads over a cache of two shards all get right bytes."""
    source = source_of(write_shards(bucket, 6), tmp_path, num_limit=2)
    source.schedule(range(6))
    with ThreadPoolExecutor(8) as pool:
        order = [number for _ in range(20) for number in range(6)]
        for number, got in zip(order, pool.map(lambda k: read(source, k), order), strict=True):
            assert got == (content(number), True)
    source.close()


def test_impossible_bounds_are_refused() -> None:
    """A cache without room is refused when the settings are built."""
    with pytest.raises(ConfigError, match="limit_bytes is 0"):
        CacheSettings(limit_bytes=0)
    with pytest.raises(ConfigError, match="ahead_bytes is -1"):
        CacheSettings(ahead_bytes=-1)
