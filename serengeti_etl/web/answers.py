"""What pages are made of: a request, an answer, and which goes to which; nothing of the network."""

import base64
import hashlib
import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from serengeti_etl.errors import SerengetiError

HTML = "text/html; charset=utf-8"

NOT_KEPT = "no-store"
"""For what changes by the minute."""

ASK_AGAIN = "private, no-cache"
"""For what may be kept, if the browser asks each time whether it is still so."""

FOR_EVER = "private, max-age=31536000, immutable"
"""For what is named by a checksum of itself."""


class PageError(SerengetiError):
    """What a person asked for cannot be shown.

    Args:
        status: of HTTP.
        message: one sentence for a person.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        """The sentence."""
        return self.message


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a browser asks for.

    Attributes:
        path: without the query, as it was sent.
        parts: named groups of the route's pattern, decoded.
        query: values of each name, decoded, in order.
        etags: versions of the answer that the browser has.
    """

    path: str
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    etags: frozenset[str] = frozenset()

    def value(self, name: str) -> str:
        """The first value of ``name`` in the query; "" without one."""
        return next(iter(self.query.get(name, ())), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a browser gets.

    Attributes:
        body: the content.
        kind: its media type.
        status: of HTTP.
        cache: Cache-Control.
        etag: names this version of the body; None lets the server take a checksum of it.
        inline: sources of inline scripts and styles that may run, from ``inline_source``.
        styles: sources of styles instead, where they are more than ``inline``.
    """

    body: bytes
    kind: str = HTML
    status: int = 200
    cache: str = NOT_KEPT
    etag: str | None = None
    inline: tuple[str, ...] = ()
    styles: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Which requests go to which function.

    Attributes:
        pattern: regular expression of the whole path; its groups are named.
        answer: may block, as it is called in a thread; raises ``PageError`` for what is not there.
        is_slow: whether it waits for a store; such have threads of their own, so that a store that
            is away does not keep the other pages from being shown.
    """

    pattern: str
    answer: Callable[[Request], Answer]
    is_slow: bool = False


def unchanged(etag: str, cache: str) -> Answer:
    """For a browser that has this version already."""
    return Answer(body=b"", status=304, cache=cache, etag=etag)


def inline_source(text: str) -> str:
    """What allows an inline script or style of exactly this text, for ``Answer.inline``."""
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def plain_page(status: int, message: str, refresh: str | None = None) -> Answer:
    """A page of one sentence; goes on to ``refresh``, if that is given."""
    go_on = (
        f'<meta http-equiv="refresh" content="0; url={html.escape(refresh)}">' if refresh else ""
    )
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{go_on}'
        f"<title>{status}</title></head><body><p>{html.escape(message)}</p></body></html>\n"
    )
    return Answer(body=text.encode(), status=status)
