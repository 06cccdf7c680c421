"""Training on a dataset that is still being converted."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.load.growing import format_names, open_growing, parse_names
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from tests.dataset_factory import make_dataset

SETTINGS = LoaderSettings(image_size=(24, 32), drop_last=False, num_threads=1, window=2)


class Conversion:
    """A conversion of which shards are committed one after the other.

    Args:
        folder: where it writes to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        dataset = make_dataset(str(folder))
        self.index = dataset.index("train", columns=["image_id", "shard"]).to_pylist()
        plan = {"plan_hash": dataset.plan_hash, "classes": list(dataset.classes)}
        dataset.store.write_json("plan/plan.json", plan)
        self.whole = folder.with_name("whole")
        shutil.copytree(folder, self.whole)
        for name in ("dataset.json", "index.parquet"):
            (folder / name).unlink()
        for path in [*(folder / "index").iterdir(), *(folder / "train").iterdir()]:
            path.unlink()

    def commit(self, *numbers: int) -> None:
        """Put shards of train in place, the commit record last."""
        for number in numbers:
            name = f"train-{number:06d}"
            for file in (f"train/{name}.tar", f"index/{name}.parquet"):
                shutil.copy(self.whole / file, self.folder / file)

    def images(self, *numbers: int) -> list[str]:
        """Sorted image ids of these shards."""
        names = {f"train-{number:06d}" for number in numbers}
        return sorted(row["image_id"] for row in self.index if row["shard"] in names)


@pytest.fixture
def conversion(tmp_path: Path) -> Conversion:
    """Nothing is committed yet."""
    return Conversion(tmp_path / "dataset")


def open_loader(conversion: Conversion, seed: int = 0) -> ShardLoader:
    growing = open_growing(str(conversion.folder))
    return ShardLoader(growing, split="train", batch_size=4, seed=seed, settings=SETTINGS)


def epoch_of(loader: ShardLoader) -> list[str]:
    """Image ids of what is left of the epoch."""
    return [name for batch in loader for name in batch.image_ids if name]


def test_each_epoch_takes_what_is_committed_at_its_start(conversion: Conversion) -> None:
    """A shard that comes in the middle of an epoch is seen from the next one on."""
    conversion.commit(0, 3)
    with open_loader(conversion) as loader:
        stream = iter(loader)
        first = list(next(stream).image_ids)
        conversion.commit(2)
        first += [name for batch in stream for name in batch.image_ids if name]
        assert sorted(first) == conversion.images(0, 3)
        assert sorted(epoch_of(loader)) == conversion.images(0, 2, 3)
        conversion.commit(1, 4)
        assert sorted(epoch_of(loader)) == conversion.images(0, 1, 2, 3, 4)
        assert loader.epoch == 3


def test_a_resumed_epoch_is_the_same_epoch_though_the_dataset_has_grown(
    conversion: Conversion,
) -> None:
    """The state names the shards that counted: a new process takes those, and no later ones."""
    conversion.commit(0, 3)
    with open_loader(conversion) as loader:
        stream = iter(loader)
        next(stream)
        state = loader.state_dict()
        rest = [name for batch in stream for name in batch.image_ids if name]
    assert state["snapshot"] == "train-0,train-3"
    conversion.commit(2, 4)
    with open_loader(conversion) as other:
        other.load_state_dict(state)
        assert epoch_of(other) == rest
        assert sorted(epoch_of(other)) == conversion.images(0, 2, 3, 4)


def test_a_dataset_that_is_whole_gives_the_order_of_the_finished_one(
    conversion: Conversion,
) -> None:
    """Once every shard is there, growing or finished makes no difference."""
    conversion.commit(0, 1, 2, 3, 4)
    with open_loader(conversion, seed=5) as loader:
        found = epoch_of(loader)
    finished = ShardLoader(
        str(conversion.whole), split="train", batch_size=4, seed=5, settings=SETTINGS
    )
    with finished:
        assert found == epoch_of(finished)


def test_what_is_not_there_is_said(conversion: Conversion, tmp_path: Path) -> None:
    """No conversion, no shard yet, a shard of the state that is gone, a damaged part."""
    with pytest.raises(DatasetError, match=r"no shard of split 'train' at .* is there yet"):
        open_loader(conversion)
    with pytest.raises(DatasetError, match="start `serengeti-etl convert` first"):
        open_growing(str(tmp_path / "nowhere"))
    conversion.commit(0, 3)
    with open_loader(conversion) as loader:
        state = loader.state_dict()
        (conversion.folder / "index" / "train-000003.parquet").unlink()
        with open_loader(conversion) as other, pytest.raises(DatasetError, match="train-000003"):
            other.load_state_dict(state)
    finished = ShardLoader(str(conversion.whole), split="train", batch_size=4, settings=SETTINGS)
    with pytest.raises(ConfigError, match="snapshot"):
        finished.load_state_dict(state)


def test_several_growing_datasets_are_brought_back_each(tmp_path: Path) -> None:
    """Each dataset of a mix has its own part of the snapshot."""
    both = []
    for name, numbers in (("a", (0, 3)), ("b", (2,))):
        (tmp_path / name).mkdir()
        both.append(Conversion(tmp_path / name / "dataset"))
        both[-1].commit(*numbers)

    def opened() -> ShardLoader:
        growing = [open_growing(str(one.folder)) for one in both]
        return ShardLoader(growing, split="train", batch_size=4, settings=SETTINGS)

    with opened() as loader:
        stream = iter(loader)
        next(stream)
        state = loader.state_dict()
        rest = [name for batch in stream for name in batch.image_ids if name]
    assert state["snapshot"] == "train-0,train-3 train-2"
    both[0].commit(4)
    with opened() as other:
        other.load_state_dict(state)
        assert epoch_of(other) == rest


NAMES = st.sets(st.integers(0, 2_000_000)).map(sorted)


@given(train=NAMES, val=NAMES)
def test_snapshots_bring_back_the_same_shards(train: list[int], val: list[int]) -> None:
    """Names become a short text and come back from it, in order."""
    names = [f"train-{number:06d}" for number in train] + [f"val-{number:06d}" for number in val]
    assert parse_names(format_names(names)) == tuple(names)


def test_snapshots_are_short() -> None:
    """Runs of numbers take no room, however many there are; nonsense is refused."""
    names = [f"train-{number:06d}" for number in range(10_000)]
    assert format_names([*names, "val-000001"]) == "train-0..9999,val-1"
    with pytest.raises(DatasetError, match="'train' names no shards"):
        parse_names("train")
