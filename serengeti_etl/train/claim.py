"""A run as one process's own: nobody else trains it meanwhile, and nothing else is trained."""

import secrets
from contextlib import ExitStack
from typing import Any

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError
from serengeti_etl.lease import Lease, hold
from serengeti_etl.storage import Store
from serengeti_etl.train.ranks import Ranks
from serengeti_etl.train.recipe import Recipe

RUN_FILE = "run.json"
"""What is trained on what; written first, never changed."""


class Claim(ExitStack):
    """Held by the first rank from ``take`` to the end of the context.

    Args:
        run: folder or bucket prefix of the run.
    """

    def __init__(self, run: Store) -> None:
        super().__init__()
        self._run = run
        self._lease: Lease | None = None

    def take(self, dataset: Dataset, recipe: Recipe) -> str:
        """Id of the run: of the one that is there, or of a new one; half-written files are removed.

        Raises:
            ConfigError: the folder holds a run of another recipe or dataset; says what differs.
            OutputHeld: another process trains this run.
        """
        self._lease = self.enter_context(hold(self._run))
        self._run.remove_partial()
        return _claimed(self._run, dataset, recipe)

    @property
    def is_lost(self) -> bool:
        """True where another process is known to have taken the run over.

        An outage of the store loses nothing by itself: who trains waits it out.
        """
        return self._lease is not None and self._lease.is_lost

    def check(self, ranks: Ranks) -> None:
        """Nothing, as long as no other process has the run; called by all ranks at once.

        Raises:
            OutputHeld: one has.
        """
        if ranks.any(self.is_lost):
            ranks.from_first(self._check)

    def _check(self) -> None:
        if self._lease is not None:
            self._lease.check()


def _claimed(run: Store, dataset: Dataset, recipe: Recipe) -> str:
    """Id of the run that is there, or of a new one."""
    wanted = {
        "recipe": recipe.settings(),
        "plan_hash": dataset.plan_hash,
        "classes": list(dataset.classes),
    }
    try:
        found = run.read_json(RUN_FILE)
    except FileNotFoundError:
        run_id = secrets.token_hex(8)
        value = wanted | {"dataset": dataset.store.url, "run_id": run_id}
        run.write_json(RUN_FILE, value)
        return run_id
    # A run from before banners could be cut off did not.
    found["recipe"] = {"crop_bottom": 0.0} | found["recipe"]
    changes = _differences(found, wanted)
    if changes:
        raise ConfigError(
            f"{run.url} holds a run of something else: {'; '.join(changes)}. Go on with what it "
            "was, or give another folder to this run"
        )
    return str(found["run_id"])


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    changes = []
    for key, value in wanted.items():
        old = found.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            changes += _differences(old, value, f"{prefix}{key}.")
        elif old != value:
            changes.append(f"{prefix}{key} was {old!r} and is now {value!r}")
    return changes
