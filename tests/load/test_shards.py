"""The local cache of a bucket's shards."""

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from serengeti_etl.errors import ConfigError, ShardError
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.shards import CachedShards
from tests.dataset_factory import Recipe, make_dataset

EIGHT = Recipe(sizes={"train": (6,) * 8, "val": (6, 6)})


@pytest.fixture
def bucket() -> Iterator[str]:
    """Address of a bucket in memory that ends with the test."""
    url = f"memory://{uuid.uuid4().hex}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def settings(cache: Path, cache_bytes: int) -> LoaderSettings:
    """Everything in order, through a cache of this size."""
    return LoaderSettings(
        image_size=(24, 32),
        window=1,
        drop_last=False,
        num_threads=2,
        cache_folder=str(cache),
        cache_bytes=cache_bytes,
    )


def sha256s(folder: Path) -> set[str]:
    """Checksums of the tars in a cache."""
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def num_bytes(folder: Path) -> int:
    """Bytes of the cached tars, though some may be evicted while one looks."""
    total = 0
    for path in folder.glob("serengeti-" + "?" * 64 + ".tar"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def flip_byte(url: str, name: str) -> bytes:
    """Change one byte in the bucket; returns what was there."""
    memory = fsspec.filesystem("memory")
    content: bytes = memory.cat_file(f"{url}/{name}")
    changed = bytearray(content)
    changed[700] ^= 1
    memory.pipe_file(f"{url}/{name}", bytes(changed))
    return content


def test_both_splits_share_one_cache_without_mixing(bucket: str, tmp_path: Path) -> None:
    """Both splits have tars of the same number; each split gets its own samples."""
    dataset = make_dataset(bucket, EIGHT)
    for split in ("train", "val"):
        config = settings(tmp_path, 2**30)
        with ShardLoader(bucket, split=split, batch_size=5, settings=config) as loader:
            names = [name for batch in loader for name in batch.image_ids if name]
        assert sorted(names) == dataset.index(split)["image_id"].to_pylist()
    assert sha256s(tmp_path) == {shard.sha256 for shard in dataset.info.shards}


def test_the_cache_stays_within_its_size(bucket: str, tmp_path: Path) -> None:
    """Two epochs through a cache of three shards: never more bytes, and foreign files stay."""
    dataset = make_dataset(bucket, EIGHT)
    limit = 3 * max(shard.num_bytes for shard in dataset.info.shards)
    foreign = tmp_path / "serengeti-notes.tar"
    foreign.write_bytes(b"mine")
    config = settings(tmp_path, limit)
    seen: list[str] = []
    with ShardLoader(bucket, split="train", batch_size=1, settings=config) as loader:
        for _ in range(2):
            for batch in loader:
                seen.extend(batch.image_ids)
                assert num_bytes(tmp_path) <= limit
    assert len(seen) == 96
    assert len(set(seen)) == 48
    assert foreign.read_bytes() == b"mine"


def test_a_shard_is_fetched_once_per_epoch_at_most(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With windows of two, no shard of the window is evicted and fetched again."""
    dataset = make_dataset(bucket, EIGHT)
    fetched: list[str] = []
    content = CachedShards._checked_content

    def counted(self: CachedShards, info: object) -> bytes:
        fetched.append(info.name)  # type: ignore[attr-defined]
        return content(self, info)  # type: ignore[arg-type]

    monkeypatch.setattr(CachedShards, "_checked_content", counted)
    limit = 5 * max(shard.num_bytes for shard in dataset.info.shards)
    config = LoaderSettings(
        image_size=(24, 32), window=2, cache_folder=str(tmp_path), cache_bytes=limit
    )
    with ShardLoader(bucket, split="train", batch_size=1, settings=config) as loader:
        list(loader)
    assert len(fetched) == len(set(fetched)) == 8


def test_the_next_shards_are_fetched_ahead(bucket: str, tmp_path: Path) -> None:
    """While the first batch is looked at, later shards arrive in the background."""
    dataset = make_dataset(bucket, EIGHT)
    config = settings(tmp_path, 2**30)
    with ShardLoader(bucket, split="train", batch_size=1, settings=config) as loader:
        next(iter(loader))
        deadline = time.monotonic() + 10
        while len(sha256s(tmp_path)) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert sha256s(tmp_path) == {shard.sha256 for shard in dataset.shards("train")}


def test_a_flipped_byte_in_the_bucket_is_an_error(bucket: str, tmp_path: Path) -> None:
    """A shard that does not match its checksum twice is refused by name; nothing is cached."""
    make_dataset(bucket, EIGHT)
    flip_byte(bucket, "val/val-000001.tar")
    config = settings(tmp_path, 2**30)
    with (
        ShardLoader(bucket, split="val", batch_size=2, settings=config) as loader,
        pytest.raises(ShardError, match=r"val-000001 .*fetched twice.*serengeti-etl verify"),
    ):
        list(loader)
    assert len(sha256s(tmp_path)) <= 1


def test_a_damaged_fetch_is_fetched_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that flipped on the way costs one more fetch and nothing else."""
    dataset = make_dataset(bucket, EIGHT)
    read = dataset.store.read
    good = flip_byte(bucket, "val/val-000000.tar")
    answers = [read("val/val-000000.tar"), good]
    monkeypatch.setattr(type(dataset.store), "read", lambda *_: answers.pop(0))
    shards = dataset.shards("val")
    cache = CachedShards(dataset.store, shards, tmp_path, 2**30)
    assert cache._checked_content(shards[0]) == good
    cache.close()
    assert not answers


def test_a_cached_file_damaged_on_disk_is_fetched_again(bucket: str, tmp_path: Path) -> None:
    """What an earlier run left in the cache is checked before it is used."""
    make_dataset(bucket, EIGHT)
    config = settings(tmp_path, 2**30)
    epochs = []
    for _ in range(2):
        with ShardLoader(bucket, split="val", batch_size=4, settings=config) as loader:
            epochs.append([batch.images_BCHW for batch in loader])
        good = sha256s(tmp_path)
        victim = next(tmp_path.glob("*.tar"))
        victim.write_bytes(bytes(1600) + victim.read_bytes()[1600:])
    assert all((a == b).all() for a, b in zip(*epochs, strict=True))
    assert good != sha256s(tmp_path)


def test_an_evicted_shard_comes_back(bucket: str, tmp_path: Path) -> None:
    """A file that another process removed from the folder is fetched again, not missed."""
    dataset = make_dataset(bucket, EIGHT)
    config = settings(tmp_path, 2**30)
    with ShardLoader(bucket, split="val", batch_size=1, settings=config) as loader:
        names: list[str] = []
        for batch in loader:
            names += batch.image_ids
            for path in tmp_path.glob("*.tar"):
                path.unlink()
    assert sorted(names) == dataset.index("val")["image_id"].to_pylist()


def test_a_cache_without_room_is_refused(bucket: str, tmp_path: Path) -> None:
    """A size of zero is refused when the settings are built."""
    make_dataset(bucket, EIGHT)
    with pytest.raises(ConfigError, match="cache_bytes is 0"):
        settings(tmp_path, 0)
