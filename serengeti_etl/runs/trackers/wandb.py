"""Weights & Biases, and trackio, which has the same functions and keeps all on this machine."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from serengeti_etl.runs.last_word import Ended
from serengeti_etl.runs.trackers.tracker import TrackedRun


class WandbTracker:
    """Logs to a project.

    Args:
        package: which of the two.
        project: that runs are listed in.
    """

    def __init__(self, package: Literal["wandb", "trackio"], project: str) -> None:
        self._package, self._project = package, project
        self._module: Any = None

    def start(self, run: TrackedRun) -> None:
        """See ``Tracker``."""
        self._module = import_module(self._package)
        # trackio knows runs by their name, W&B by their id.
        name = {"name": f"{run.name}-{run.run_id}"}
        if self._package == "wandb":
            name = {"name": run.name, "id": run.run_id}
        config = dict(run.config)
        self._module.init(project=self._project, config=config, resume="allow", **name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        self._module.log(dict(values), step=step)

    def finish(self, ended: Ended) -> None:
        """See ``Tracker``."""
        if self._package == "wandb":
            self._module.finish(exit_code=int(ended == "failed"))
        else:
            self._module.finish()
