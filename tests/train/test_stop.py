"""A spot notice: the step in hand is finished and saved, and the message continues the run."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import ModelFile
from tests.dataset_factory import make_dataset

ROOT = Path(__file__).parents[2]

# One write a line: a print may be several, and those of two ranks fall between each other.
RECIPE = """
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from serengeti_etl.train import loop
from tests.train import tiny

torch.set_num_threads(1)
patch = pytest.MonkeyPatch()
tiny.install(patch)
original = loop._Trainer._step
GO_ON = Path(__file__).with_name("go on")

def slow(self, stage, parts):
    original(self, stage, parts)
    time.sleep({pause})
    while self._place.step == {holds_at} and not self._watch.should_stop() and not GO_ON.exists():
        time.sleep(0.02)
    os.write(1, b"step %d\\n" % self._place.step)

patch.setattr(loop._Trainer, "_step", slow)
recipe = replace(tiny.RECIPE, stages=tiny.RECIPE.stages[:{num_stages}])
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of 27 training and 9 validation images."""
    return make_dataset(str(tmp_path_factory.mktemp("dataset"))).store.url


def command_of(
    dataset: str, folder: Path, pause: float, num_stages: int = 2, holds_at: int = 0
) -> list[str]:
    """A training whose steps take so long at least; its recipe lies in a folder with a space.

    The step ``holds_at`` ends when the training is asked to stop, or a file ``go on`` lies beside
    the recipe. So a test that is held up itself still meets the training at work.
    """
    (folder / "my recipes").mkdir(exist_ok=True)
    recipe = folder / "my recipes" / "tiny.py"
    recipe.write_text(RECIPE.format(pause=pause, num_stages=num_stages, holds_at=holds_at))
    return [
        *(sys.executable, "-m", "serengeti_etl", "train", dataset),
        *("--run", str(folder / "run"), "--recipe", str(recipe), "--device", "cpu"),
    ]


@pytest.fixture(scope="module")
def undisturbed(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command_of(dataset, folder, pause=0), cwd=ROOT, check=True)
    return folder


def continuing_command(said: str) -> list[str]:
    line = next(line for line in said.splitlines() if "; to continue, run: " in line)
    return shlex.split(line.partition("; to continue, run: ")[2])


def read_to(process: "subprocess.Popen[str]", line: str) -> None:
    """Read its output up to that line."""
    assert process.stdout is not None
    while (read := process.stdout.readline()) != f"{line}\n":
        assert read, process.communicate()[1]


def run_of(folder: Path) -> dict[str, torch.Tensor]:
    return ModelFile.read(Store(url=str(folder / "run"))).state_dict


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_in_hand(
    dataset: str, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Exit 3 with a checkpoint of that step; the command it names ends as an undisturbed run."""
    command = command_of(dataset, tmp_path, pause=0, holds_at=3)
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_to(process, "step 2")
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 3, said
    assert "Traceback" not in said
    saved = max((tmp_path / "run" / "checkpoints").glob("step-*")).name
    assert f"saved as checkpoints/{saved}" in said
    assert saved in ("step-000000002.pt", "step-000000003.pt")
    command_of(dataset, tmp_path, pause=0)
    subprocess.run(continuing_command(said), cwd=ROOT, check=True)
    expected = run_of(undisturbed)
    assert all(torch.equal(expected[key], value) for key, value in run_of(tmp_path).items())


@pytest.mark.slow
def test_a_signal_to_torchrun_saves_the_step_that_all_ranks_have_done(
    dataset: str, tmp_path: Path
) -> None:
    """One message by the first rank, one checkpoint; the command it names ends the run."""
    torchrun = [*(sys.executable, "-m", "torch.distributed.run"), "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", "-m", "serengeti_etl", "--"]
    # Two ranks cannot share the batch of three of the second stage.
    command += command_of(dataset, tmp_path, pause=0, num_stages=1, holds_at=3)[3:]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        read_to(process, "step 2")
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert said.count("; to continue, run: torchrun --nproc-per-node 2 ") == 1, said
    saved = max((tmp_path / "run" / "checkpoints").glob("step-*")).name
    assert f"saved as checkpoints/{saved}" in said
    assert not (tmp_path / "run" / "model.pt").exists()
    command_of(dataset, tmp_path, pause=0, num_stages=1)
    again = continuing_command(said)
    assert again[0] == "torchrun"
    subprocess.run([*torchrun, *again[1:]], cwd=ROOT, check=True)
    assert (tmp_path / "run" / "model.pt").exists()


def test_time_ends_a_step_that_does_not_end(dataset: str, tmp_path: Path) -> None:
    """A run that cannot come to its next step ends in time with exit 3, as it was saved last."""
    command = command_of(dataset, tmp_path, pause=60)
    with (tmp_path / "my recipes" / "tiny.py").open("a") as recipe:
        recipe.write("from serengeti_etl.cli import stopping\nstopping.SAVE_SECONDS = 1.0\n")
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "run" / "run.json").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=50)[1]
    assert process.returncode == 3, said
    assert "to continue, run: " in said
