"""Real ranks under torchrun, killed and taken up by another number of them."""

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.load.loader import LoaderSettings, ShardLoader
from tests.dataset_factory import Recipe, make_dataset

READER = Path(__file__).with_name("rank_reader.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six shards of 77 samples together."""
    recipe = Recipe(sizes={"train": (20, 0, 11, 19, 15, 12)})
    return make_dataset(str(tmp_path_factory.mktemp("dataset")), recipe)


def start(dataset: Dataset, folder: Path, *, ranks: int, batch: int, num_steps: int) -> "Ranks":
    """So many ranks at work, which stand still after so many steps, if any."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), str(READER)),
        *(dataset.store.url, str(folder), str(num_steps), str(batch)),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


Ranks = subprocess.Popen[bytes]


def wait_for(folder: Path, num_states: int, ranks: Ranks) -> None:
    """Until so many steps are written down."""
    deadline = time.monotonic() + 250
    while len(list(folder.glob("state-*.json"))) < num_states:
        assert ranks.poll() is None, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(ranks: Ranks) -> None:
    """At once, with the ranks themselves, which torchrun puts into sessions of their own."""
    processes = psutil.Process(ranks.pid).children(recursive=True) if ranks.poll() is None else []
    ranks.kill()
    ranks.wait()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=60)


def alone(dataset: Dataset) -> list[str]:
    """The order of one process."""
    settings = LoaderSettings(image_size=(24, 32), window=2, lanes=2, drop_last=False)
    with ShardLoader(dataset, split="train", batch_size=8, seed=3, settings=settings) as loader:
        batches = list(loader)
    pairs = [
        (int(place), name)
        for batch in batches
        for place, name in zip(batch.positions_B, batch.image_ids, strict=True)
        if name
    ]
    return [name for _, name in sorted(pairs)]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
def test_ranks_that_are_killed_go_on_as_another_number_of_ranks(
    dataset: Dataset, tmp_path: Path, first: int, second: int
) -> None:
    """After SIGKILL at a random step: no sample twice, none missed, in the order of one process."""
    num_steps = random.Random(first).randint(2, 5)  # noqa: S311 - not a secret
    ranks = start(dataset, tmp_path, ranks=first, batch=4, num_steps=num_steps)
    try:
        wait_for(tmp_path, num_steps, ranks)
    finally:
        kill(ranks)
    assert len(list(tmp_path.glob("state-*.json"))) == num_steps
    ranks = start(dataset, tmp_path, ranks=second, batch=3, num_steps=0)
    try:
        assert ranks.wait(timeout=250) == 0, (tmp_path / "log").read_text()[-3000:]
    finally:
        kill(ranks)
    assert (tmp_path / "done").exists()
    steps = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("state-*.json"))]
    pairs = [tuple(pair) for step in steps for mine in step["seen"] for pair in mine]
    assert [name for _, name in sorted(pairs)] == alone(dataset)
    assert sorted(place for place, _ in pairs) == list(range(77))
