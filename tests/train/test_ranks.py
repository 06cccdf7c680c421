"""Real ranks under torchrun: the same batches and nearly the same weights on any number."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs.processes import send
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from serengeti_etl.train.loop import train
from serengeti_etl.train.ranks import Ranks
from tests.dataset_factory import Recipe as DatasetRecipe
from tests.dataset_factory import make_dataset
from tests.train import rank_trainer

ROOT = Path(__file__).parents[2]
TRAINER = Path(rank_trainer.__file__)

Seen = dict[int, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 77 training and 9 validation images."""
    recipe = DatasetRecipe(sizes={"train": (20, 0, 11, 19, 15, 12), "val": (4, 5)})
    return make_dataset(str(tmp_path_factory.mktemp("dataset")), recipe).store.url


def start(dataset: str, folder: Path, num_ranks: int, *more: object) -> "subprocess.Popen[str]":
    """A run, or a part of it, by so many ranks; see ``rank_trainer`` for ``more``."""
    folder.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(num_ranks), str(TRAINER)),
        *(dataset, str(folder / "run"), str(folder), *map(str, more)),
    ]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(dataset: str, folder: Path, num_ranks: int, accumulate: int = 1) -> None:
    """A run to its end by so many ranks."""
    ranks = start(dataset, folder, num_ranks, accumulate, 0)
    said = ranks.communicate()[1]
    assert ranks.returncode == 0, said[-3000:]


def stop(dataset: str, folder: Path, num_ranks: int, step: int) -> None:
    """A part of a run, until its last rank is asked to stop."""
    ranks = start(dataset, folder, num_ranks, 1, 0, step)
    said = ranks.communicate()[1]
    assert "exitcode  : 3" in said, said[-3000:]
    last = max((folder / "run" / "checkpoints").glob("step-*"))
    assert last.name == f"step-{step:09d}.pt"


def kill(dataset: str, folder: Path, num_ranks: int, step: int) -> None:
    """A part of a run, until its ranks are killed some time after a step."""
    ranks = start(dataset, folder, num_ranks, 1, 0.1)
    notes = folder / "rank-0"
    while not (notes.exists() and len(notes.read_text().splitlines()) >= step):
        assert ranks.poll() is None
        time.sleep(0.01)
    agent = psutil.Process(ranks.pid)
    # A rank ends by itself too when it misses the others.
    send([agent, *agent.children(recursive=True)], signal.SIGKILL)
    ranks.communicate()
    assert not (folder / "run" / "model.pt").exists()


def seen_in(folder: Path) -> Seen:
    """What each step saw: places in the order of its epoch, and images; asserts none is split."""
    steps: dict[int, set[tuple[int, str]]] = {}
    for path in folder.glob("rank-*"):
        for line in path.read_text().splitlines():
            step, pairs = json.loads(line)
            steps.setdefault(step, set()).update((place, name) for place, name in pairs)
    return {step: sorted(pairs) for step, pairs in sorted(steps.items())}


def difference(folder: Path, other: Path) -> float:
    """The largest distance of trained weights between two runs, as a share of their length."""
    left, right = weights_of(folder), weights_of(other)
    names = [name for name in left if "running" not in name and "num_batches" not in name]
    return max(float((left[n] - right[n]).norm() / right[n].norm()) for n in names)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return ModelFile.read(Store(url=str(folder / "run"))).state_dict


def records_of(folder: Path) -> list[tuple[str, int]]:
    return [(record["kind"], record["step"]) for record in all_records_of(folder)]


def scores_of(folder: Path) -> list[float]:
    return [record["score"] for record in all_records_of(folder) if record["kind"] == "val"]


def all_records_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_ranks(dataset: str, tmp_path: Path) -> None:
    """One rank, then two, then three: the batches of one rank alone, and nearly its weights."""
    one, many = tmp_path / "one", tmp_path / "many"
    finish(dataset, one, 1)
    stop(dataset, many, 1, step=5)
    stop(dataset, many, 2, step=13)
    finish(dataset, many, 3)
    assert seen_in(many) == seen_in(one)
    assert list(seen_in(one)) == list(range(1, rank_trainer.NUM_STEPS + 1))
    assert all(len(pairs) in (12, 6) for pairs in seen_in(one).values())
    assert records_of(many) == records_of(one)
    assert difference(many, one) < 0.3
    # BatchNorm sees other parts of a batch: they differ by 0.9 % here, by more on other processors.
    assert scores_of(many) == pytest.approx(scores_of(one), rel=0.03)
    for rank in range(3):
        # Those of the last validation are all three ranks' own.
        lines = [(many / f"statistics-{one}").read_text().splitlines() for one in (0, rank)]
        assert lines[0][-1] == lines[1][-1]
        assert (many / f"heard-{rank}").read_text() == "refused on rank 0"


@pytest.mark.slow
def test_two_ranks_are_one_that_works_in_two_parts(dataset: str, tmp_path: Path) -> None:
    """Killed and taken up by two again: the same to the bit; one rank in two parts: to rounding."""
    two, killed, parts = tmp_path / "two", tmp_path / "killed", tmp_path / "parts"
    finish(dataset, two, 2)
    kill(dataset, killed, 2, step=random.Random(1).randint(3, 20))  # noqa: S311 - no secret
    finish(dataset, killed, 2)
    assert seen_in(killed) == seen_in(two)
    assert all(torch.equal(weights_of(killed)[k], v) for k, v in weights_of(two).items())
    finish(dataset, parts, 1, accumulate=2)
    assert seen_in(parts) == seen_in(two)
    assert difference(parts, two) < 1e-3


def test_a_batch_that_ranks_and_parts_cannot_share_is_refused(dataset: str, tmp_path: Path) -> None:
    """A batch of 12 in five parts is refused before the first step, with what would do."""
    settings = rank_trainer.settings_of(accumulate=5)
    with pytest.raises(ConfigError, match=r"'small' is 12, .* multiple of 5"):
        train(dataset, str(tmp_path), rank_trainer.RECIPE, settings=settings)
    assert not list(tmp_path.iterdir())


def test_batch_norm_of_all_ranks_is_for_gpus(dataset: str, tmp_path: Path) -> None:
    """SyncBatchNorm on a CPU is refused, as torch has none there."""
    recipe = replace(rank_trainer.RECIPE, sync_batch_norm=True)
    settings = rank_trainer.settings_of(accumulate=1)
    with pytest.raises(ConfigError, match="sync_batch_norm is True"):
        train(dataset, str(tmp_path), recipe, settings=settings)


def test_one_rank_alone_needs_nobody() -> None:
    """Without torchrun every exchange gives back what went in."""
    ranks, model = Ranks(), torch.nn.Linear(2, 2)
    assert ranks.together(model) is model
    assert ranks.gather("a") == ["a"]
    assert ranks.any(True)  # noqa: FBT003
    assert not ranks.any(False)  # noqa: FBT003
    assert float(ranks.mean(torch.tensor(2.0))) == 2.0
