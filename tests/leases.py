"""Leases of others, for tests of who writes where."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from serengeti_etl.lease import LEASE_FILE, Holder
from serengeti_etl.storage import Store
from tests.hosts import wait_for


def elsewhere(seconds_left: float) -> Holder:
    """A holder on another machine, whose lease runs out in so many seconds."""
    here = Holder.here()
    end = here.since + timedelta(seconds=seconds_left)
    return replace(here, host="far-away", machine="another", expires_at=end)


def lose(place: Path, other: Holder) -> None:
    """Return when the lease of ``place`` is the other's, and its holder here has seen that."""
    (renewal,) = [one for one in threading.enumerate() if one.name == "lease"][-1:]

    def is_seen() -> bool:
        # Again each time, for a renewal under way may have written over it.
        Store(url=str(place)).write(LEASE_FILE, other.as_bytes())
        return not renewal.is_alive()

    wait_for(is_seen, "the lease looked")


@contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Meanwhile ``act`` is called every now and then, in a thread."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.2):
            act()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
