"""Templates to pages: and how numbers are written for people."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from serengeti_etl.templates import Templates

MAX_NUM_BYTES = 5_000_000
"""Of a page, pictures included."""

NONE = "–"
"""Stands where there is no number."""

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_WHOLE = 10_000
"""Counts below are written in full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key figure.

    Attributes:
        name: what it is.
        value: in few letters.
        note: below it.
        mood: ``good``, ``bad`` or "".
    """

    name: str
    value: str
    note: str = ""
    mood: str = ""


def render(template: str, **values: Any) -> bytes:
    """The page of a template below ``templates/``, as UTF-8.

    Whatever is in ``values`` is text to the page, never markup: Jinja escapes it, and the page's
    own policy lets no script run but ``sort.js``, and no address be asked.

    Args:
        template: its name.
        values: for the template; one that it misses is an error.
    """
    script = _text("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made_at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    fixed = {"style": _text("style.css"), "script": script, "script_sha256": digest}
    return _templates().page(template, **values, **fixed, made_at=made_at).encode()


@cache
def _templates() -> Templates:
    return Templates("serengeti_etl.report", filters=_FILTERS)


def _text(name: str) -> str:
    return files("serengeti_etl.report").joinpath("templates", name).read_text("utf-8")


def count(value: float | None) -> str:
    """Such as ``7,178,440``."""
    return NONE if value is None else f"{value:,.0f}"


def large(value: float) -> str:
    """A count in few letters, such as ``7.18 M``; whole up to 9,999."""
    if value < _WHOLE:
        return count(value)
    unit_size, unit = next(pair for pair in _LARGE if value >= pair[0])
    return f"{value / unit_size:.3g} {unit}"


def size(num_bytes: float) -> str:
    """Such as ``17.3 MB``, of a million bytes each."""
    for unit_size, unit in _UNITS:
        if num_bytes >= unit_size:
            return f"{num_bytes / unit_size:,.1f} {unit}"
    return f"{num_bytes:.0f} bytes"


def percent(share: float | None, digits: int = 1) -> str:
    """Such as ``12.5 %``; a little is never written as nothing."""
    if share is None:
        return NONE
    least = 10.0**-digits / 100
    if 0 < share < least:
        return f"< {100 * least:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"


def decimals(value: float | None, digits: int = 4) -> str:
    """Such as ``0.1874``."""
    return NONE if value is None else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Such as ``3 h 20 min``, ``4 min 5 s`` or ``2.1 s``."""
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"


def width(share: float | None) -> str:
    """A share as a width in CSS; what is there at all is always to be seen."""
    bounded = min(max(share or 0.0, 0.0), 1.0)
    return f"{max(100 * bounded, 0.4) if bounded else 0:.2f}%"


_FILTERS: dict[str, Callable[..., str]] = {
    "count": count,
    "large": large,
    "size": size,
    "percent": percent,
    "decimals": decimals,
    "duration": duration,
    "width": width,
}
