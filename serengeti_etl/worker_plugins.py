"""What is plugged into a Dask cluster; ``cluster.py`` imports it where it is used.

These are classes of a module, not of a function, so that they are pickled by name: bytecode of
another minor version of Python can kill the worker that loads it.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from distributed import SchedulerPlugin, WorkerPlugin
from distributed.core import Status

logger = logging.getLogger(__name__)

REFUSED = "serengeti-etl-refused"
"""Topic of the events that say which worker was refused, and why."""

Fingerprint = Callable[[], Mapping[str, str]]
"""Gives versions by name; it lies in a module that workers can import."""


def differences(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    """What is not as wanted, both versions of each; "" if all is."""
    return ", ".join(
        f"{name} {found.get(name, 'unknown')} (here {version})"
        for name, version in wanted.items()
        if found.get(name) != version
    )


class StillProfilers(WorkerPlugin):
    """Stops the sampling of stacks; see ``cluster._still_profilers``."""

    name = "serengeti-etl-still-profilers"

    def setup(self, worker: Any) -> None:
        """Stop those that run, and take them out: a worker that is starting would start them."""
        for name in ("profile", "profile-cycle"):
            callback = worker.periodic_callbacks.pop(name, None)
            if callback is not None:
                callback.stop()


class Likeness(WorkerPlugin):
    """Sends away a worker that joins later and is not like the driver, before it works.

    Args:
        fingerprint: gives the worker's versions.
        wanted: the driver's.
    """

    name = "serengeti-etl-likeness"

    def __init__(self, fingerprint: Fingerprint, wanted: Mapping[str, str]) -> None:
        self.fingerprint = fingerprint
        self.wanted = dict(wanted)

    async def setup(self, worker: Any) -> None:
        """Compare; Dask itself would only log an error here, and let the worker work."""
        found: Mapping[str, str] = {}
        try:
            found = self.fingerprint()
        finally:
            reason = differences(self.wanted, found)
            if reason:
                await self._send_away(worker, reason)

    async def _send_away(self, worker: Any, reason: str) -> None:
        logger.error("This worker is refused, for it has %s.", reason)
        worker.log_event(REFUSED, {"worker": worker.address, "reason": reason})
        # From here on it begins no task; the scheduler has handed it some by now.
        worker.status = Status.closing_gracefully
        await worker.scheduler.retire_workers(workers=[worker.address], close_workers=True)


class ForgetLikeness(SchedulerPlugin):
    """Takes ``Likeness`` out when its driver goes, however it goes.

    On a cluster that lives longer, what that driver wanted would turn away the workers of the next.

    Args:
        client: id of the driver's client.
    """

    name = "serengeti-etl-forget-likeness"

    def __init__(self, client: str) -> None:
        self.client = client

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Called by Dask when a client is gone."""
        if client == self.client:
            scheduler.worker_plugins.pop(Likeness.name, None)
