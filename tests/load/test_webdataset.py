"""The shards as any WebDataset reader sees them."""

from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from serengeti_etl.errors import ShardError
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from serengeti_etl.load.webdataset import webdataset_pipeline
from tests.dataset_factory import make_dataset


def test_the_plain_library_reads_what_our_loader_reads(tmp_path: Path) -> None:
    """The library itself finds the same keys, labels and JPEGs, in the same order."""
    dataset = make_dataset(str(tmp_path))
    tars = [str(tmp_path / shard.tar_name) for shard in dataset.shards("train")]
    plain = wds.WebDataset(tars, shardshuffle=False, empty_check=False).decode("rgb8")
    rows = dataset.index("train").to_pylist()
    settings = LoaderSettings(image_size=(48, 64)).for_evaluation()
    with ShardLoader(dataset, split="train", batch_size=1, settings=settings) as loader:
        for sample, row, batch in zip(plain, rows, loader, strict=True):
            assert sample["__key__"] == row["image_id"] == batch.image_ids[0]
            assert sample["json"]["labels"] == row["labels"]
            ours = batch.images_BCHW[0].permute(1, 2, 0).numpy().astype(int)
            assert np.abs(sample["jpg"] - ours).max() <= 2


@pytest.mark.parametrize("memory", [False, True])
def test_the_pipeline_equals_the_loader(tmp_path: Path, *, memory: bool) -> None:
    """Images, targets and keys of the pipeline are the loader's, from a folder and a bucket."""
    dataset = make_dataset(f"memory://{tmp_path.name}-wds" if memory else str(tmp_path))
    settings = LoaderSettings(image_size=(24, 32))
    pipeline = webdataset_pipeline(dataset.store.url, split="val", image_size=(24, 32))
    with ShardLoader(
        dataset, split="val", batch_size=1, settings=settings.for_evaluation()
    ) as loader:
        for (image, target, key), batch in zip(pipeline, loader, strict=True):
            assert key == batch.image_ids[0]
            assert np.array_equal(target, batch.targets_BC[0].numpy())
            assert np.array_equal(image, batch.images_BCHW[0].permute(1, 2, 0).numpy())


def test_a_shuffled_pipeline_holds_every_sample_once(tmp_path: Path) -> None:
    """Shuffling changes the order, decided by the seed, and nothing else."""
    dataset = make_dataset(str(tmp_path))
    rows = dataset.index("train")["image_id"].to_pylist()
    orders = [
        [key for _, _, key in webdataset_pipeline(dataset, split="train", shuffle=20, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert sorted(orders[0]) == rows != orders[0]
    assert orders[0] == orders[1] != orders[2]


def test_a_cut_tar_is_an_error(tmp_path: Path) -> None:
    """The library alone would read a cut tar as fewer samples; the pipeline refuses it."""
    make_dataset(str(tmp_path))
    tar = tmp_path / "val" / "val-000001.tar"
    tar.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(ShardError, match=r"val-000001\.tar"):
        list(webdataset_pipeline(str(tmp_path), split="val"))
