"""The page of a run: one file of HTML that shows it on a phone, with no server and no request."""

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from serengeti_etl.runs.curves import Chart, draw, short_number
from serengeti_etl.runs.notes import Sample
from serengeti_etl.runs.status import Status

if TYPE_CHECKING:
    from serengeti_etl.templates import Templates

_TEMPLATE = "page.html"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400

_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What a page shows beside the status.

    Attributes:
        marks: step at which each stage begins, with its name.
        charts: of the records.
        events: rows of ``events.jsonl``, the oldest first.
        log: last lines with their time.
        samples: photographs and what the model makes of them.
    """

    marks: Sequence[tuple[int, str]] = ()
    charts: Sequence[Chart] = ()
    events: Sequence[Mapping[str, Any]] = ()
    log: Sequence[tuple[float, str]] = ()
    samples: Sequence[Sample] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Mark:
    """A stage on the bar, as shares of the whole.

    Attributes:
        at: where it begins.
        width: of it.
        name: of it.
        is_now: whether the run is in it.
    """

    at: float
    width: float
    name: str
    is_now: bool


class Page:
    """The page of one run; drawn when something changed, and else given a new heartbeat only."""

    def __init__(self) -> None:
        # Random, for what a run is told may hold anything.
        self._status_here, self._reload_here = secrets.token_hex(16), secrets.token_hex(16)
        self._drawn = ""

    def draw(self, status: Status, facts: Facts) -> None:
        """Draw it anew.

        Raises:
            ValueError: something in it cannot be drawn; the page stays as it was.
        """
        self._drawn = _templates().page(
            _TEMPLATE,
            status=status,
            state=status.state(status.heartbeat_at),
            share=_share(status),
            marks=_placed_marks(status, facts.marks),
            drawings=[draw(chart, facts.marks, status.num_steps) for chart in facts.charts],
            events=list(reversed(facts.events)),
            log=facts.log,
            samples=facts.samples,
            status_here=self._status_here,
            reload_here=self._reload_here,
        )

    def content(self, status: Status, *, reloads: bool) -> bytes:
        """All of it as it was drawn last, with ``status`` for its badge and its ages.

        Args:
            status: of this moment.
            reloads: whether the page looks for a newer one by itself.
        """
        seconds = min(60.0, max(5.0, status.heartbeat_seconds)) if reloads else 0.0
        page = self._drawn.replace(self._status_here, script_json(status.to_json()))
        return page.replace(self._reload_here, f"{seconds:.0f}").encode()


def script_json(value: object) -> str:
    """JSON that nothing in it can end the script it stands in."""
    text = json.dumps(value, allow_nan=False)
    return "".join(_UNSAFE.get(one, one) for one in text)


def duration(seconds: float | None) -> str:
    """As people say it: ``42 s``, ``7 min``, ``3 h 05 min``, ``2 d 4 h``; ``–`` if unknown."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 2 * _MINUTE:
        return f"{whole} s"
    if whole < 2 * _HOUR:
        return f"{whole // _MINUTE} min"
    if whole < 2 * _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


@cache
def _templates() -> "Templates":
    from serengeti_etl.templates import Templates  # in the thread beside the run, not before it

    filters: dict[str, Callable[..., str]] = {
        "duration": duration,
        "short": short_number,
        "utc": _utc,
        "data_url": _data_url,
    }
    return Templates("serengeti_etl.runs", "", filters)


def _share(status: Status) -> float | None:
    """Of the whole that is done, 0-1; None while unknown."""
    if not status.num_steps:
        return None
    return min(1.0, status.step / status.num_steps)


def _placed_marks(status: Status, marks: Sequence[tuple[int, str]]) -> list[_Mark]:
    num_steps = status.num_steps
    if not num_steps or not marks:
        return []
    ends = [*(step for step, _ in marks[1:]), num_steps]
    return [
        _Mark(
            at=step / num_steps,
            width=(end - step) / num_steps,
            name=name,
            is_now=step <= status.step < end or (end == num_steps == status.step),
        )
        for (step, name), end in zip(marks, ends, strict=True)
    ]


def _utc(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _data_url(jpeg: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
