"""The pages: what a browser may ask of a watcher, and nothing else.

A run in an address is looked up among those that were found. Pages of runs come out of a store that
others may write to: of them only the script that this version of the board's page has may run.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from serengeti_etl.run_tables import done_text, figure_text
from serengeti_etl.runs.page import duration
from serengeti_etl.runs.status import PAGE_FILE, State, Status
from serengeti_etl.runs.vigil import Sight
from serengeti_etl.runs.watch import SeenRun, Watch
from serengeti_etl.templates import Templates
from serengeti_etl.web.answers import Answer, PageError, Request, Route, inline_source
from serengeti_etl.web.files import file_route

_PACKAGE = "serengeti_etl.watch"
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ORDER = ("FAILED", "LOST", "STALLED", "RUNNING", "STOPPED", "DONE")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A run on the overview, in words.

    Attributes:
        key: of its page's address.
        title: its name.
        place: below the watched place.
        state: of ``State``, or ``UNSEEN``.
        is_sure: False while only time will tell whether it is lost.
        stage: what it works at.
        done: steps done and in all.
        share: of all steps, 0-100; None while unknown.
        figures: names and values of what is known.
        note: why it failed or cannot be seen.
    """

    key: str
    title: str
    place: str
    state: str
    is_sure: bool
    stage: str
    done: str
    share: float | None
    figures: tuple[tuple[str, str], ...]
    note: str


def routes(watch: Watch) -> Sequence[Route]:
    """Routes over what ``watch`` sees, for ``web.server.WebServer``."""
    pages = _Pages(watch)
    return (
        Route(pattern="/", answer=pages.overview),
        Route(pattern="/cards", answer=pages.cards),
        Route(pattern=r"/run/(?P<key>[0-9a-f]+)/", answer=pages.run, is_slow=True),
        file_route(_PACKAGE),
    )


class _Pages:
    def __init__(self, watch: Watch) -> None:
        self._watch, self._templates = watch, Templates(_PACKAGE)

    def overview(self, _request: Request) -> Answer:
        return self._answer("overview.html")

    def cards(self, _request: Request) -> Answer:
        """The part of the overview that changes."""
        return self._answer("cards.html")

    def run(self, request: Request) -> Answer:
        """The run's own page, as it lies in the store."""
        key = request.parts["key"]
        run = next((one for one in self._watch.runs if one.key == key), None)
        if run is None:
            raise PageError(404, "there is no such run here")
        try:
            body = run.store.read(PAGE_FILE)
        except FileNotFoundError:
            raise PageError(404, f"{run.store.url} has no {PAGE_FILE} yet") from None
        return Answer(body=body, inline=_own_scripts(), styles=("'unsafe-inline'",))

    def _answer(self, template: str) -> Answer:
        cards = sorted((card_of(run) for run in self._watch.runs), key=_place_of)
        num_troubles = sum(run.is_trouble for run in self._watch.runs)
        body = self._templates.page(
            template,
            cards=cards,
            faults=self._watch.faults,
            num_troubles=num_troubles,
            now=time.strftime("%H:%M:%S UTC", time.gmtime()),
            is_settled=self._watch.is_settled,
        )
        return Answer(body=body.encode())


def card_of(run: SeenRun) -> Card:
    """The card of a run."""
    status, sight = run.status, run.sight
    figures: list[tuple[str, str]] = []
    if status is not None:
        if sight.state in (State.RUNNING, State.STALLED) and status.eta_seconds is not None:
            figures.append(("left", duration(status.eta_seconds)))
        figures += [(name, figure_text(run, name)) for name in ("score", "loss")]
        if sight.state is not None:
            figures.append(("last seen", duration(sight.silent_seconds)))
        if status.cost is not None:
            figures.append(("cost", f"{status.cost:,.2f}"))
    total = status.num_steps if status else None
    return Card(
        key=run.key,
        title=run.title,
        place=run.store.url,
        state=sight.state.value if sight.state else "UNSEEN",
        is_sure=sight.is_sure or sight.state is None,
        stage=status.stage if status else "",
        done=done_text(run),
        share=min(100.0, 100 * status.step / total) if status and total else None,
        figures=tuple((name, value) for name, value in figures if value),
        note=run.fault or (_note(status, sight) if status else ""),
    )


def _note(status: Status, sight: Sight) -> str:
    """Why someone should look."""
    if sight.state is State.LOST:
        return f"no word for {duration(sight.silent_seconds)}"
    if sight.state is State.STALLED:
        return f"no progress for {duration(status.heartbeat_at - status.progress_at)}"
    return status.reason


def _place_of(card: Card) -> tuple[int, str]:
    """Where someone should look comes first."""
    return (_ORDER.index(card.state) if card.state in _ORDER else -1), card.title


@cache
def _own_scripts() -> tuple[str, ...]:
    """What allows the board's own script."""
    page = files("serengeti_etl.runs").joinpath("page.html").read_text(encoding="utf-8")
    return tuple(inline_source(script) for script in _SCRIPT.findall(page))
