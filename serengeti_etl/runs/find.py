"""Runs that lie at a folder or bucket prefix, or one level below it."""

from collections.abc import Iterable
from dataclasses import dataclass

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.runs.look import Look, look_at
from serengeti_etl.storage import Store, join_url

RUN_FOLDER = "run"
"""Of a dataset, for the run that converts it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundRun:
    """A run that says something of itself.

    Attributes:
        name: its place below where it was looked for; "" for that place itself.
        store: its prefix.
        look: the first at it.
    """

    name: str
    store: Store
    look: Look


def find_runs(url: str, pool: DaemonPool) -> list[FoundRun]:
    """The runs at ``url``, in ``url/run``, and in the folders of ``url`` and their ``run``.

    Args:
        url: folder or bucket prefix.
        pool: of threads that ask.

    Raises:
        OSError: the place cannot be listed.
        SerengetiError: likewise, for good.
    """
    root = Store(url=url)
    places = list(_places(root))
    looks = [pool.submit(look_at, root.at(place)) for place in places]
    found = []
    for place, coming in zip(places, looks, strict=True):
        look = coming.result()
        if look.is_there:
            store = Store(url=join_url(url, place)) if place else root
            found.append(FoundRun(name=_short(place), store=store, look=look))
    return found


def _places(root: Store) -> Iterable[str]:
    yield ""
    for folder in root.folders(""):
        yield folder
        if folder != RUN_FOLDER:
            yield f"{folder}/{RUN_FOLDER}"


def _short(place: str) -> str:
    return "" if place == RUN_FOLDER else place.removesuffix(f"/{RUN_FOLDER}")
