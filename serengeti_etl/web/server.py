"""The server: routes to answers, over HTTP by Tornado. Its only home.

Read-only: GET and HEAD. What an answer raises becomes a page of one sentence, never a traceback.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Awaitable, Sequence
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.netutil import bind_sockets
from tornado.web import Application, HTTPError, RequestHandler

from serengeti_etl.daemon_pool import DaemonPool
from serengeti_etl.errors import ConfigError, SerengetiError, require
from serengeti_etl.retry import is_transient
from serengeti_etl.web.answers import NOT_KEPT, Answer, PageError, Request, Route, plain_page
from serengeti_etl.web.guard import WebSettings, is_known_host, is_loopback, is_token

_LOG = logging.getLogger(__name__)

_MAX_WAITING = 1024
"""Requests under way; more are asked to come again."""

_ALL_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - to tell it from others
_IDLE_SECONDS = 75.0
_MAX_HEADER_NUM_BYTES = 32 * 1024
_MAX_BODY_NUM_BYTES = 1024
_STOP_SECONDS = 5.0
_COOKIE_DAYS = 30

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Pages of others must not even show our pictures.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": NOT_KEPT,
}


class WebServer:
    """Serves ``routes`` from when the context is entered until it is left.

    Args:
        routes: the first that matches answers.
        settings: where, and to whom.

    Raises:
        ConfigError: on entering: the address cannot be had, or others reach it and there is no
            token.
    """

    def __init__(self, routes: Sequence[Route], settings: WebSettings | None = None) -> None:
        self._routes, self.settings = tuple(routes), settings or WebSettings()
        self._ready, self._ended = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()

    def __enter__(self) -> Self:
        self._sockets = _bound(self.settings)
        thread = threading.Thread(target=self._serve, name="web", daemon=True)
        thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._ended.wait(_STOP_SECONDS)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where the first page is; without the token."""
        host = self.settings.place[0]
        if host in _ALL_ADDRESSES:
            host = socket.gethostname()
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}/"

    def stop(self) -> None:
        """Take no more requests and leave those under way; may be called from any thread."""
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_soon_threadsafe(self._stop.set)

    def wait(self) -> None:
        """Until it has stopped; an interrupt comes through."""
        self._ended.wait()

    def _serve(self) -> None:
        try:
            asyncio.run(self._listen())
        finally:
            self._ended.set()
            self._ready.set()

    async def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        num_threads = self.settings.num_threads
        pools = {
            False: DaemonPool(num_threads, "pages"),
            True: DaemonPool(num_threads, "pages of stores"),
        }
        work = _Work(self.settings, pools, self.port)
        routes = [*self._routes, Route(pattern=".*", answer=_missing)]
        server = HTTPServer(
            Application(
                [(route.pattern, _Handler, {"route": route, "work": work}) for route in routes],
                log_function=_log_request,
            ),
            idle_connection_timeout=_IDLE_SECONDS,
            max_header_size=_MAX_HEADER_NUM_BYTES,
            max_body_size=_MAX_BODY_NUM_BYTES,
        )
        server.add_sockets(self._sockets)
        self._ready.set()
        await self._stop.wait()
        server.stop()
        for pool in pools.values():
            pool.abandon()
        await server.close_all_connections()


def _bound(settings: WebSettings) -> list[socket.socket]:
    host, port = settings.place
    try:
        sockets = bind_sockets(port, host)
    except OSError as error:
        raise ConfigError(
            f"address {settings.address} cannot be listened on ({error.strerror or error}): choose "
            "another, or port 0 for one that is free"
        ) from error
    if settings.token is None and not all(is_loopback(s.getsockname()[0]) for s in sockets):
        for one in sockets:
            one.close()
        require(False, "token", None, f"given, as others can reach {settings.address}")  # noqa: FBT003
    return sockets


def _missing(request: Request) -> Answer:
    raise PageError(HTTPStatus.NOT_FOUND, f"there is no page {request.path}")


def _log_request(handler: RequestHandler) -> None:
    # Not the query, which may hold the token.
    _LOG.debug("%s %s %s", handler.get_status(), handler.request.method, handler.request.path)


class _Work:
    """What all requests share: the guard's settings, threads and their limit."""

    def __init__(self, settings: WebSettings, pools: dict[bool, DaemonPool], port: int) -> None:
        self.settings, self._pools = settings, pools
        # Browsers send cookies to all ports of a host: each server has its own.
        self.cookie = f"serengeti-etl-{port}"
        self._num_waiting = 0

    async def answer(self, handler: "_Handler", request: Request) -> Answer:
        """What the route answers, or the page that says why it does not."""
        if self._num_waiting >= _MAX_WAITING:
            return plain_page(HTTPStatus.SERVICE_UNAVAILABLE, "too much at once: try again soon")
        self._num_waiting += 1
        try:
            pool = self._pools[handler.route.is_slow]
            made = asyncio.wrap_future(pool.submit(handler.made, request))
            # When the server stops, the thread's result is not called off under it.
            return await asyncio.shield(made)
        except PageError as error:
            return plain_page(error.status, error.message)
        except (SerengetiError, OSError) as error:
            _LOG.warning("%s: %s", request.path, error)
            may_pass = is_transient(error)
            status = HTTPStatus.SERVICE_UNAVAILABLE if may_pass else HTTPStatus.BAD_GATEWAY
            return plain_page(status, str(error))
        finally:
            self._num_waiting -= 1


class _Handler(RequestHandler):
    SUPPORTED_METHODS = ("GET", "HEAD")

    def initialize(self, route: Route, work: _Work) -> None:
        self.route, self._work = route, work
        self._is_gone = False
        self._etag: str | None = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in _HEADERS.items():
            self.set_header(name, value)
        self.set_header("Content-Security-Policy", _policy(()))

    def prepare(self) -> None:
        """Turn away who may not see this."""
        settings = self._work.settings
        if not is_known_host(self.request.headers.get("Host", ""), settings):
            name = self.request.host_name
            text = f"this server does not go by the name {name}: give it as --host-name, if it does"
            self._send(plain_page(HTTPStatus.FORBIDDEN, text))
        elif settings.token is not None:
            self._check_token(settings)

    def get(self, **parts: str) -> Awaitable[None]:
        """Answer."""
        return self._answer(parts)

    def head(self, **parts: str) -> Awaitable[None]:
        """Answer, of which Tornado sends the headers."""
        return self._answer(parts)

    def made(self, request: Request) -> Answer:
        """The answer; an empty one, if nobody waits for it any more."""
        return Answer(body=b"") if self._is_gone else self.route.answer(request)

    def on_connection_close(self) -> None:
        """Who has scrolled on does not want what is asked for still."""
        self._is_gone = True

    def compute_etag(self) -> str | None:
        """As the answer says, else a checksum of the body."""
        return self._etag or super().compute_etag()

    def write_error(self, status_code: int, **_: Any) -> None:
        """A page of one sentence for what Tornado itself refuses, and for bugs."""
        self._send(plain_page(status_code, f"{status_code}: {self._reason}"))

    def log_exception(self, *exc_info: Any) -> None:
        """Bugs with their traceback; never the query, which may hold the token."""
        if not isinstance(exc_info[1], HTTPError):
            _LOG.error("%s failed", self.request.path, exc_info=exc_info)

    async def _answer(self, parts: dict[str, str]) -> None:
        try:
            request = _request(self.request, parts)
        except UnicodeDecodeError:
            self._send(plain_page(HTTPStatus.BAD_REQUEST, "the address is not UTF-8"))
            return
        answer = await self._work.answer(self, request)
        if not self._is_gone:
            self._send(answer)

    def _check_token(self, settings: WebSettings) -> None:
        given = self.get_query_argument("token", None)
        if given is None and is_token(self.get_cookie(self._work.cookie) or "", settings):
            return
        if given is None or not is_token(given, settings):
            text = "this page needs a token: open the address that the command printed, ?token=…"
            self._send(plain_page(HTTPStatus.FORBIDDEN, text))
            return
        # A page of this site leads on: of a redirect browsers say that it came from elsewhere,
        # and would keep a strict cookie to themselves.
        self.set_cookie(
            self._work.cookie, given, expires_days=_COOKIE_DAYS, httponly=True, samesite="Strict"
        )
        query = [(k, v) for k, v in parse_qsl(self.request.query, True) if k != "token"]  # noqa: FBT003
        # A path of two slashes would lead to another host.
        path = "/" + self.request.path.lstrip("/\\")
        onward = f"{path}?{urlencode(query)}" if query else path
        self._send(plain_page(HTTPStatus.OK, "the token is right", refresh=onward))

    def _send(self, answer: Answer) -> None:
        self.set_status(answer.status)
        self._etag = answer.etag and f'"{answer.etag}"'
        self.set_header("Cache-Control", answer.cache)
        self.set_header("Content-Security-Policy", _policy(answer.inline, answer.styles))
        if answer.status == HTTPStatus.NOT_MODIFIED:
            self.set_etag_header()
            self.finish()
            return
        self.set_header("Content-Type", answer.kind)
        self.finish(answer.body)


def _request(request: HTTPServerRequest, parts: dict[str, str]) -> Request:
    query = {
        name: tuple(value.decode() for value in values)
        for name, values in request.query_arguments.items()
    }
    known = request.headers.get("If-None-Match", "")
    etags = frozenset(tag.strip().removeprefix("W/").strip('"') for tag in known.split(","))
    return Request(path=request.path, parts=parts, query=query, etags=etags - {""})


def _policy(inline: Sequence[str], styles: Sequence[str] | None = None) -> str:
    scripts = " ".join(("'self'", *inline))
    styled = " ".join(("'self'", *(inline if styles is None else styles)))
    return (
        f"default-src 'self'; script-src {scripts}; style-src {styled}; img-src 'self' data:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
