"""Which trackers ``--tracker`` names."""

from importlib.util import find_spec
from pathlib import Path

from serengeti_etl.errors import ConfigError, require
from serengeti_etl.runs.trackers.mlflow import MlflowTracker
from serengeti_etl.runs.trackers.tensorboard import TensorBoardTracker
from serengeti_etl.runs.trackers.tracker import Tracker
from serengeti_etl.runs.trackers.wandb import WandbTracker
from serengeti_etl.storage import is_local, join_url

KINDS = ("tensorboard", "trackio", "wandb", "mlflow")
PROJECT = "serengeti-etl"


def choose_tracker(spec: str, run: str) -> tuple[str, Tracker]:
    """Name and tracker of one ``--tracker``.

    Args:
        spec: ``tensorboard[=FOLDER]``, ``trackio[=PROJECT]``, ``wandb[=PROJECT]`` or
            ``mlflow[=URI]``.
        run: folder or url of the run.

    Raises:
        ConfigError: there is no such tracker, it is not installed, or it needs a folder.
    """
    kind, _, value = spec.partition("=")
    require(kind in KINDS, "--tracker", kind, f"one of {', '.join(KINDS)}, with =VALUE or without")
    if find_spec(kind) is None:
        raise ConfigError(
            f"--tracker {kind} is not installed: install the extra with "
            f"`pip install 'serengeti-etl[{kind}]'`"
        )
    if kind == "tensorboard":
        return kind, TensorBoardTracker(_folder(value, run))
    if kind == "mlflow":
        return kind, MlflowTracker(value or None)
    return kind, WandbTracker("wandb" if kind == "wandb" else "trackio", value or PROJECT)


def _folder(value: str, run: str) -> Path:
    place = value or join_url(run, "tensorboard")
    if not is_local(place):
        raise ConfigError(
            f"--tracker tensorboard writes to local folders, not to {place}: name one with "
            "--tracker tensorboard=FOLDER"
        )
    return Path(place.removeprefix("file://").removeprefix("local://"))
