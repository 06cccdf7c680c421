"""Real ranks under torchrun, killed and taken up by another number of them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def start(dataset: Dataset, folder: Path, *, ranks: int, batch: int, pause: float) -> "Ranks":
    """So many ranks at work."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), str(READER)),
        *(dataset.store.url, str(folder), str(pause), str(batch)),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (folder / "log").open("ab")
    return subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
    )


Ranks = subprocess.Popen[bytes]


def wait_for(folder: Path, num_states: int, ranks: Ranks) -> None:
    """Until so many steps are written down."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("state-*.json"))) < num_states:
        assert ranks.poll() is None, (folder / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
@pytest.mark.parametrize(("first", "second"), [(2, 3), (3, 2)])
def test_ranks_that_are_killed_go_on_as_another_number_of_ranks(
    dataset: Dataset, tmp_path: Path, first: int, second: int
) -> None:
    """After SIGKILL at a random step: no sample twice, none missed, in the order of one process."""
    num_steps = random.Random(first).randint(2, 5)  # noqa: S311 - not a secret
    ranks = start(dataset, tmp_path, ranks=first, batch=4, pause=0.2)
    try:
        wait_for(tmp_path, num_steps, ranks)
    finally:
        os.killpg(ranks.pid, signal.SIGKILL)
        ranks.wait()
    assert not (tmp_path / "done").exists()
    ranks = start(dataset, tmp_path, ranks=second, batch=3, pause=0)
    assert ranks.wait(timeout=120) == 0, (tmp_path / "log").read_text()[-3000:]
    steps = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("state-*.json"))]
    pairs = [tuple(pair) for step in steps for mine in step["seen"] for pair in mine]
    assert [name for _, name in sorted(pairs)] == alone(dataset)
    assert sorted(place for place, _ in pairs) == list(range(77))
