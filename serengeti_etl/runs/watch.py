"""A watcher over all runs at some places: finds them, looks at them, and tells what is new.

It is the dead-man: who died cannot tell it. Nothing here waits for a store; ``Watch.step`` is to be
called again and again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import SerengetiError, require
from serengeti_etl.runs.alert import Alert, Level
from serengeti_etl.runs.find import FoundRun, find_runs
from serengeti_etl.runs.look import Look, Looker, look_at
from serengeti_etl.runs.news import News
from serengeti_etl.runs.page import duration
from serengeti_etl.runs.status import State, Status
from serengeti_etl.runs.vigil import Sight, Vigil
from serengeti_etl.storage import Store

if TYPE_CHECKING:
    from concurrent.futures import Future

_NUM_THREADS = 8
"""That ask one place: one that hangs does not hold up the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchSettings:
    """How often a watcher looks.

    Attributes:
        every_seconds: between two looks at a run.
        find_seconds: between two searches for runs that are new.
        blind_seconds: what cannot be seen for so long is told.
    """

    every_seconds: float = 30.0
    find_seconds: float = 60.0
    blind_seconds: float = 300.0

    def __post_init__(self) -> None:
        require(self.every_seconds > 0, "every_seconds", self.every_seconds, "positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenRun:
    """A run as the watcher sees it now.

    Attributes:
        key: short name of it in addresses of pages.
        name: its place below the watched one.
        store: its prefix.
        status: what it said last; None if that could never be read.
        sight: what it is.
        fault: why it cannot be seen; "" if it can.
    """

    key: str
    name: str
    store: Store
    status: Status | None
    sight: Sight
    fault: str

    @property
    def title(self) -> str:
        """For people."""
        return (self.status and self.status.name) or self.name or self.store.url

    @property
    def is_trouble(self) -> bool:
        """True where someone should look."""
        return self.sight.state.is_trouble if self.sight.state else bool(self.fault)


@dataclass(slots=True)
class _Blindness:
    """Tells once when a thing cannot be seen for long, and once when it can again."""

    url: str
    limit: float
    since: float | None = None
    is_told: bool = False

    def see(self, fault: str, now: float) -> list[Alert]:
        if not fault:
            was_told, self.since, self.is_told = self.is_told, None, False
            title = f"{self.url} can be seen again"
            return [Alert(kind="seen-again", run=self.url, title=title)] if was_told else []
        self.since = now if self.since is None else self.since
        if self.is_told or now - self.since < self.limit:
            return []
        self.is_told = True
        title = f"cannot see {self.url}"
        text = f"for {duration(now - self.since)}: {fault}; nothing is known of what runs there"
        return [Alert(kind="unseen", run=self.url, title=title, text=text, level=Level.WARNING)]


class Watch:
    """All runs at some places.

    Args:
        urls: folders or bucket prefixes.
        settings: how often to look.
        tell: gets each alert; must not wait.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: WatchSettings | None = None,
        tell: Callable[[Alert], object] = lambda _: None,
    ) -> None:
        settings = settings or WatchSettings()
        # A run that lies below two of the places is watched at one of them.
        taken = set[str]()
        self._roots = [_Root(url, settings, taken) for url in dict.fromkeys(urls)]
        self._tell = tell

    def step(self) -> None:
        """Take in what has been seen meanwhile; tell what is new. Never waits."""
        for root in self._roots:
            for alert in root.step():
                self._tell(alert)

    @property
    def runs(self) -> tuple[SeenRun, ...]:
        """All that are known now; may be asked for from any thread."""
        return tuple(run for root in self._roots for run in root.runs)

    @property
    def faults(self) -> dict[str, str]:
        """Why a place cannot be searched, by its url."""
        return {root.url: root.fault for root in self._roots if root.fault}

    @property
    def is_settled(self) -> bool:
        """True once every place was searched and every run's state is sure, or cannot be seen."""
        return all(root.is_settled for root in self._roots)


class _Root:
    """One watched place."""

    def __init__(self, url: str, settings: WatchSettings, taken: set[str]) -> None:
        self.url, self._settings, self._taken = url, settings, taken
        self.fault, self.runs = "", tuple[SeenRun, ...]()
        self._pool = DaemonPool(_NUM_THREADS, f"watch {url}")
        self._finder = DaemonPool(1, f"find in {url}")
        self._finding: Future[list[FoundRun]] | None = None
        self._found_at, self._was_searched, self._was_found = float("-inf"), False, False
        self._watched: dict[str, _Watched] = {}
        self._blindness = _Blindness(url, settings.blind_seconds)

    @property
    def is_settled(self) -> bool:
        return self._was_searched and all(run.sight.is_sure or bool(run.fault) for run in self.runs)

    def step(self) -> list[Alert]:
        ticks = time.monotonic()
        self._find(ticks)
        told = [alert for run in self._watched.values() for alert in run.step()]
        self.runs = tuple(run.seen for run in self._watched.values())
        # One word for all of them when the store is away.
        faults = [run.fault for run in self.runs]
        all_blind = bool(faults) and all(faults)
        blind = self._blindness.see(self.fault or (faults[0] if all_blind else ""), ticks)
        if not all_blind:
            told += [alert for run in self._watched.values() for alert in run.blind(ticks)]
        return [*blind, *told]

    def _find(self, ticks: float) -> None:
        if self._finding is None and ticks - self._found_at >= self._settings.find_seconds:
            self._found_at = ticks
            self._finding = self._finder.submit(find_runs, self.url, self._pool)
        if self._finding is None or not self._finding.done():
            return
        finding, self._finding = self._finding, None
        self._was_searched = True
        error = finding.exception()
        if isinstance(error, SerengetiError | OSError):
            self.fault = str(error) or type(error).__name__
            return
        self.fault = ""
        for found in finding.result():
            place = found.store.url.rstrip("/")
            if place not in self._taken:
                self._taken.add(place)
                # What comes later has begun under our eyes, however soon it ends.
                state = State.RUNNING if self._was_found else None
                news = News(found.store.url, state=state)
                self._watched[found.store.url] = _Watched(found, self._settings, self._pool, news)
        self._was_found = True


class _Watched:
    """One run of a place."""

    def __init__(
        self, found: FoundRun, settings: WatchSettings, pool: DaemonPool, news: News
    ) -> None:
        self._first: Look | None = found.look
        look = partial(look_at, found.store)
        self._looker = Looker(look, settings.every_seconds, pool)
        self._vigil, self._news = Vigil(), news
        self._blindness = _Blindness(found.store.url, settings.blind_seconds)
        self.seen = SeenRun(
            key=sha256(found.store.url.encode()).hexdigest()[:12],
            name=found.name,
            store=found.store,
            status=None,
            sight=Sight(state=None, is_sure=False),
            fault=found.look.fault,
        )

    def step(self) -> list[Alert]:
        look = self._looker.take() if self._first is None else self._first
        self._first = None
        return [] if look is None else self._see(look)

    def blind(self, ticks: float) -> list[Alert]:
        return self._blindness.see(self.seen.fault, ticks)

    def _see(self, look: Look) -> list[Alert]:
        sight = self._vigil.see(look, time.time(), time.monotonic())
        fault = look.fault or ("" if look.status else "it says nothing any more")
        self.seen = SeenRun(
            key=self.seen.key,
            name=self.seen.name,
            store=self.seen.store,
            status=look.status or self.seen.status,
            sight=sight,
            fault=fault,
        )
        return [] if look.status is None else self._news.of(look.status, sight)
