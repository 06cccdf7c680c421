"""MLflow: a server or folder of its own; its only home."""

import time
from collections.abc import Mapping
from typing import Any

from serengeti_etl.runs.last_word import Ended
from serengeti_etl.runs.trackers.tracker import TrackedRun

EXPERIMENT = "serengeti-etl"

_TAG = "serengeti_run_id"
_STATES = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_NUM_PARAMS = 100
"""That it takes at once."""


class MlflowTracker:
    """Logs to an experiment.

    Args:
        uri: of the server or folder; None lets MLflow choose.
    """

    def __init__(self, uri: str | None) -> None:
        self._uri = uri
        self._client: Any = None
        self._run_id = ""

    def start(self, run: TrackedRun) -> None:
        """See ``Tracker``."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client = self._client = MlflowClient(tracking_uri=self._uri)
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if found is None else found.experiment_id
        # An earlier process of the same run has begun it there.
        known = client.search_runs([experiment], f"tags.{_TAG} = '{run.run_id}'", max_results=1)
        if known:
            self._run_id = known[0].info.run_id
            client.update_run(self._run_id, status="RUNNING")
            return
        made = client.create_run(experiment, tags={_TAG: run.run_id}, run_name=run.name)
        self._run_id = made.info.run_id
        params = [Param(name, str(value)[:500]) for name, value in run.config.items()]
        for at in range(0, len(params), _NUM_PARAMS):
            client.log_batch(self._run_id, params=params[at : at + _NUM_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Tracker``."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def finish(self, ended: Ended) -> None:
        """See ``Tracker``."""
        self._client.set_terminated(self._run_id, status=_STATES[ended])
