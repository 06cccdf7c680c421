"""The loader on a real S3 server: the batches of a folder, and a cursor that travels."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pytest
import torch

from serengeti_etl.errors import ShardError
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.selection import Selection
from serengeti_etl.load.shard_source import CacheSettings
from tests.dataset_factory import Recipe, make_dataset


def read(url: str, cache: Path, state: dict[str, object] | None = None) -> list[Batch]:
    """All batches of what is left of the epoch."""
    settings = LoaderSettings(
        image_size=(48, 64), window=2, cache=CacheSettings(folder=str(cache)), max_damaged=0
    )
    with ShardLoader(url, split="train", batch_size=4, seed=5, settings=settings) as loader:
        if state is not None:
            loader.load_state_dict(state)
        return list(loader)


@pytest.fixture
def folder_and_bucket(tmp_path: Path, make_bucket: Callable[[str], str]) -> tuple[str, str]:
    """Urls of the same dataset in a folder and in a bucket of a real server."""
    import s3fs

    folder = tmp_path / "dataset"
    make_dataset(str(folder))
    bucket = make_bucket("loader")
    s3fs.S3FileSystem().put(f"{folder}/", f"{bucket}/dataset/", recursive=True)
    return str(folder), f"{bucket}/dataset"


def test_a_bucket_gives_the_batches_of_a_folder(
    folder_and_bucket: tuple[str, str], tmp_path: Path
) -> None:
    """Same ids, targets and pixels, cold and from the warm cache."""
    folder, bucket = folder_and_bucket
    local = read(folder, tmp_path / "unused")
    for remote in (read(bucket, tmp_path / "cache"), read(bucket, tmp_path / "cache")):
        assert [batch.image_ids for batch in remote] == [batch.image_ids for batch in local]
        for one, other in zip(local, remote, strict=True):
            assert torch.equal(one.images_BCHW, other.images_BCHW)
            assert torch.equal(one.targets_BC, other.targets_BC)
    assert not (tmp_path / "unused").exists()


def test_of_shards_of_which_little_is_selected_little_is_fetched(
    make_bucket: Callable[[str], str], tmp_path: Path
) -> None:
    """One sequence of each large shard comes by ranges, with the samples of a folder."""
    import s3fs

    folder, bucket = tmp_path / "dataset", make_bucket("sparse")
    dataset = make_dataset(str(folder), Recipe(sizes={"train": (300, 300)}, height=64, width=96))
    s3fs.S3FileSystem().put(f"{folder}/", f"{bucket}/dataset/", recursive=True)
    total = sum(shard.num_bytes for shard in dataset.shards("train"))
    selection = Selection(where=pc.field("seq_id").isin(["train#7", "train#160", "train#161"]))
    settings = LoaderSettings(
        image_size=(48, 64), drop_last=False, cache=CacheSettings(folder=str(tmp_path / "cache"))
    )
    seen = []
    for url in (str(folder), f"{bucket}/dataset"):
        with ShardLoader(
            url, split="train", batch_size=4, selection=selection, settings=settings
        ) as loader:
            seen.append(
                [(batch.image_ids, batch.images_BCHW.numpy().tobytes()) for batch in loader]
            )
            fetched = loader.report().source.num_bytes_fetched
            assert loader.report().num_replaced == 0
    assert seen[0] == seen[1]
    assert 0 < fetched < total / 10


def test_a_cursor_travels_from_folder_to_bucket(
    folder_and_bucket: tuple[str, str], tmp_path: Path
) -> None:
    """A place taken on a folder continues in the bucket with the very next sample."""
    folder, bucket = folder_and_bucket
    settings = LoaderSettings(image_size=(48, 64), window=2)
    with ShardLoader(folder, split="train", batch_size=4, seed=5, settings=settings) as loader:
        next(iter(loader))
        state = loader.state_dict()
    whole, rest = read(folder, tmp_path / "a"), read(bucket, tmp_path / "b", state)
    assert [batch.image_ids for batch in rest] == [batch.image_ids for batch in whole[1:]]


def test_a_damaged_object_never_yields_a_sample(
    folder_and_bucket: tuple[str, str], tmp_path: Path
) -> None:
    """A tar with one flipped byte in the bucket is refused by name."""
    import s3fs

    _, bucket = folder_and_bucket
    fs = s3fs.S3FileSystem()
    name = f"{bucket}/train/train-000000.tar"
    whole = fs.cat_file(name)
    fs.pipe_file(name, whole[:600] + bytes([whole[600] ^ 1]) + whole[601:])
    with pytest.raises(ShardError, match=r"shard train-000000 of s3.* does not match its checksum"):
        read(bucket, tmp_path / "cache")
