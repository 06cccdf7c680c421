"""What each tracker keeps, read back by its own reader."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serengeti_etl.runs.trackers.mlflow import EXPERIMENT, MlflowTracker
from serengeti_etl.runs.trackers.tensorboard import TensorBoardTracker
from serengeti_etl.runs.trackers.tracker import TrackedRun, Tracker

ROOT = Path(__file__).parents[3]
FIRST = TrackedRun(run_id="r1", name="lions", step=0, config={"device": "cpu"})
AGAIN = TrackedRun(run_id="r1", name="lions", step=20, config={"device": "cpu"})


def log_two_processes(first: Tracker, again: Tracker) -> None:
    """A run that is killed after step 40 and continued from step 20."""
    first.start(FIRST)
    for step in (20, 40):
        first.log(step, {"train/loss": 1.0 / step})
    again.start(AGAIN)
    again.log(40, {"train/loss": 0.5, "val/score": 0.25})
    again.finish("done")


def test_tensorboard_shows_curves(tmp_path: Path) -> None:
    """One curve over both processes of a run; what was done again replaces what was before."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoardTracker(tmp_path)
    first.start(FIRST)
    for step in (20, 40):
        first.log(step, {"train/loss": 1.0 / step})
    first._writer.close()
    again = TensorBoardTracker(tmp_path)
    again.start(AGAIN)
    again.log(40, {"train/loss": 0.5, "val/score": 0.25})
    again.finish("done")
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    curve = [(one.step, round(one.value, 4)) for one in shown.Scalars("train/loss")]
    assert curve[-1] == (40, 0.5)
    assert (40, 0.025) not in curve
    assert [one.value for one in shown.Scalars("val/score")] == [0.25]


def test_tensorboard_needs_no_torch(tmp_path: Path) -> None:
    """Its writer loads neither torch nor TensorFlow."""
    pytest.importorskip("tensorboard")
    code = (
        "import sys; from pathlib import Path\n"
        "from serengeti_etl.runs.trackers.tensorboard import TensorBoardTracker\n"
        "from serengeti_etl.runs.trackers.tracker import TrackedRun\n"
        f"t = TensorBoardTracker(Path({str(tmp_path)!r}))\n"
        "t.start(TrackedRun(run_id='r', name='n', step=0))\n"
        "t.log(1, {'a': 1.0}); t.finish('done')\n"
        "print({'torch', 'tensorflow'} & set(sys.modules))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "set()\n"


def test_mlflow_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes are one run there, with its settings, metrics and how it ended."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    uri = tmp_path.as_uri()
    # It calls its folders old; a server or database is what people have.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_two_processes(MlflowTracker(uri), MlflowTracker(uri))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("lions", "FINISHED")
    assert run.data.params == {"device": "cpu"}
    assert run.data.metrics == {"train/loss": 0.5, "val/score": 0.25}


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_trackio_and_wandb_take_the_same_calls(package: str, tmp_path: Path) -> None:
    """Offline, in a process of its own, as both set up threads and exit hooks."""
    pytest.importorskip(package)
    code = (
        "from serengeti_etl.runs.trackers.wandb import WandbTracker\n"
        "from serengeti_etl.runs.trackers.tracker import TrackedRun\n"
        f"t = WandbTracker({package!r}, 'tests')\n"
        "t.start(TrackedRun(run_id='r1', name='lions', step=0, config={'device': 'cpu'}))\n"
        "t.log(20, {'train/loss': 0.5}); t.finish('done')\n"
    )
    own = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "TRACKIO_DIR": str(tmp_path)}
    environment = os.environ | own | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    kept = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kept & {".wandb", ".db"}, kept
