"""Damage at random places: verify names it, repair restores it, the loader never yields it."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.repair import repair_dataset
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import DATASET_FILE, PLAN_FILE, open_dataset
from serengeti_etl.dataset.sums import SUMS_FILE
from serengeti_etl.dataset.verify import verify_dataset
from serengeti_etl.errors import DatasetError, ShardError
from serengeti_etl.load.shard_source import CacheSettings, Shard
from serengeti_etl.load.shards import open_source
from serengeti_etl.load.webdataset import webdataset_pipeline
from serengeti_etl.storage import Store
from tests.conftest import files_below
from tests.seeds import SEED

pytestmark = pytest.mark.chaos

NUM_PLACES = 60
"""Set it to 200 for a long run."""


def flip(draw: random.Random, path: Path) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def overwrite(draw: random.Random, path: Path) -> None:
    """A stretch of bytes is of something else."""
    content = bytearray(path.read_bytes())
    start = draw.randrange(len(content))
    end = min(len(content), start + draw.choice([1, 16, 512, 4096]))
    old = bytes(content[start:end])
    content[start:end] = (b"\0" if any(old) else b"\1") * (end - start)
    path.write_bytes(content)


def cut(draw: random.Random, path: Path) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def drop(draw: random.Random, path: Path) -> None:
    """A stretch in the middle is missing."""
    content = path.read_bytes()
    start = draw.randrange(len(content))
    path.write_bytes(content[:start] + content[start + draw.choice([1, 512]) :])


def exchange(draw: random.Random, path: Path) -> None:
    """The two halves, cut anywhere, change places."""
    content = path.read_bytes()
    at = draw.randrange(1, len(content))
    path.write_bytes(content[at:] + content[:at])


def delete(_: random.Random, path: Path) -> None:
    """The file is not there."""
    path.unlink()


def swap(draw: random.Random, path: Path) -> None:
    """The file has the content of another one of its kind, which is lost in turn."""
    others = [one for one in sorted(path.parent.iterdir()) if one != path and one.is_file()]
    other = draw.choice(others)
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


def mix_up(draw: random.Random, path: Path) -> None:
    """The file has the content of another one of any kind."""
    root = next(one for one in path.parents if (one / PLAN_FILE).exists())
    others = [one for one in sorted(root.rglob("*")) if one != path and one.is_file()]
    path.write_bytes(draw.choice(others).read_bytes())


DAMAGES: tuple[Callable[[random.Random, Path], None], ...] = (
    flip,
    flip,
    overwrite,
    cut,
    drop,
    exchange,
    delete,
    swap,
    mix_up,
)


@pytest.fixture(scope="module")
def whole(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole dataset. Read only."""
    output = tmp_path_factory.mktemp("whole")
    convert_season(pipeline, SerialRunner(), str(output))
    return output


@pytest.fixture(scope="module")
def contents(whole: Path) -> dict[str, bytes]:
    """Every file of the whole dataset by its name."""
    return files_below(whole)


def named(folder: Path) -> set[str]:
    """The files that verify blames, and SHA256SUMS if it is what disagrees."""
    try:
        problems = verify_dataset(str(folder), SerialRunner()).problems
    except DatasetError as error:
        is_clear = "serengeti-etl repair" in str(error) or "has not finished" in str(error)
        return {DATASET_FILE} if DATASET_FILE in str(error) and is_clear else set()
    found = {problem.name for problem in problems}
    return found | {SUMS_FILE for problem in problems if SUMS_FILE in problem.message}


@pytest.mark.parametrize("place", range(NUM_PLACES), ids=lambda place: f"seed{SEED}-{place}")
def test_random_damage_is_named_and_mended(
    whole: Path, pipeline: SeasonPipeline, contents: dict[str, bytes], tmp_path: Path, place: int
) -> None:
    """Flipped, cut, moved or deleted anywhere: verify names the file, repair restores its bytes."""
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - repeatable damage, not a secret
    folder = tmp_path / "damaged"
    shutil.copytree(whole, folder)
    # Kinds of file in turn, so that the few that are not tars or index parts get their share.
    kinds = sorted({(str(Path(name).parent), Path(name).suffix) for name in contents})
    kind = kinds[place % len(kinds)]
    names = [n for n in sorted(contents) if (str(Path(n).parent), Path(n).suffix) == kind]
    name, damage = draw.choice(names), draw.choice(DAMAGES)
    damage(draw, folder / name)
    now = files_below(folder)
    wrong = {one for one in contents if now.get(one) != contents[one]}
    what = f"{damage.__name__} {name}"
    assert wrong, what
    assert wrong & named(folder), (what, named(folder))
    check_loader(whole, folder, tmp_path / "cache", contents)
    mended = repair_dataset(pipeline, SerialRunner(), str(folder))
    assert mended.problems == (), what
    restored = files_below(folder)
    assert {one for one in contents if restored.get(one) != contents[one]} == set(), what
    assert restored.keys() == contents.keys(), what
    assert named(folder) == set(), what


def check_loader(whole: Path, folder: Path, cache: Path, contents: dict[str, bytes]) -> None:
    """No tar that differs is handed out as whole, by either way of loading."""
    dataset, store = open_dataset(str(whole)), Store(url=str(folder))
    for split in dataset.splits:
        shards = dataset.shards(split)
        source = open_source(
            [Shard(store=store, info=info) for info in shards], CacheSettings(folder=str(cache))
        )
        for number, shard in enumerate(shards):
            path = folder / shard.tar_name
            is_whole = path.is_file() and path.read_bytes() == contents[shard.tar_name]
            if is_whole:
                continue
            if path.is_file():
                opened = source.open(number)
                assert not opened.is_whole
                opened.close()
            else:
                with pytest.raises(ShardError, match="is missing"):
                    source.open(number)
            dataset.store = store  # what dataset.json says, of the tars that are there now
            with pytest.raises((ShardError, FileNotFoundError)):
                list(webdataset_pipeline(dataset, split=split))
        source.close()
