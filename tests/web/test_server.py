"""The server of pages: who may ask what, what comes back, and that it ends."""

import contextlib
import http.client
import logging
import re
import socket
import threading
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest

from serengeti_etl.errors import ConfigError, DatasetError
from serengeti_etl.web.answers import (
    FOR_EVER,
    Answer,
    PageError,
    Request,
    Route,
    inline_source,
    unchanged,
)
from serengeti_etl.web.guard import WebSettings
from serengeti_etl.web.server import WebServer, _Handler
from tests.hosts import wait_for

TOKEN = "a-token_of-24-characters"  # noqa: S105 - of no use elsewhere


def said(request: Request) -> Answer:
    return Answer(body=f"{request.parts} {request.query}".encode(), kind="text/plain")


def kept(request: Request) -> Answer:
    if "v1" in request.etags:
        return unchanged("v1", FOR_EVER)
    return Answer(body=b"kept", etag="v1", cache=FOR_EVER)


def fails(request: Request) -> Answer:
    kinds = {
        "page": PageError(404, "no <such> page"),
        "damaged": DatasetError("index is damaged; run verify"),
        "away": ConnectionResetError("the store is away"),
        "bug": ZeroDivisionError("secret of the code"),
    }
    raise kinds[request.parts["kind"]]


def styled(_: Request) -> Answer:
    return Answer(body=b"<style>p{}</style>", inline=(inline_source("p{}"),))


ROUTES = (
    Route(pattern="/said/(?P<what>.*)", answer=said),
    Route(pattern="/kept", answer=kept),
    Route(pattern="/fails/(?P<kind>.*)", answer=fails),
    Route(pattern="/styled", answer=styled),
)


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    """Open to this machine, without a token."""
    with WebServer(ROUTES) as running:
        yield running


@pytest.fixture(scope="module")
def guarded() -> Iterator[WebServer]:
    """On all addresses, with a token."""
    with WebServer(ROUTES, WebSettings(address="0.0.0.0:0", token=TOKEN)) as running:
        yield running


def ask(
    server: WebServer, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """The answer, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response, body


def ask_raw(server: WebServer, request: bytes) -> bytes:
    """All that comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        received = b""
        with contextlib.suppress(ConnectionError):  # it may hang up before it has read all
            connection.sendall(request)
            while part := connection.recv(65536):
                received += part
    return received


def test_parts_and_query_reach_the_route_decoded(server: WebServer) -> None:
    """A route sees the named groups of its path and all values of the query, decoded."""
    _, body = ask(server, "/said/a%2Fb%20%3C?x=1&x=%C3%A9&y=")
    assert body.decode() == str({"what": "a/b <"}) + " " + str({"x": ("1", "é"), "y": ("",)})


@pytest.mark.parametrize("path", ["/", "/said", "/said/%ff", "/kept/", "//", "/static/x.css"])
def test_what_no_route_knows_is_a_page_that_says_so(server: WebServer, path: str) -> None:
    """Paths without a route, and such as are not UTF-8, are refused with a page."""
    response, body = ask(server, path)
    assert response.status in (400, 404)
    assert b"<!doctype html>" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HACK"])
def test_only_get_and_head_are_answered(server: WebServer, method: str) -> None:
    """All other methods are refused."""
    response, body = ask(server, "/kept", method)
    assert response.status == 405
    assert b"kept" not in body


def test_head_is_get_without_the_body(server: WebServer) -> None:
    """HEAD has the headers of GET and nothing after them."""
    response, body = ask(server, "/kept", "HEAD")
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "4")


def test_every_answer_has_the_security_headers(server: WebServer) -> None:
    """Good pages and refusals alike forbid framing, sniffing, referrers and the outside."""
    for path, method in (("/kept", "GET"), ("/nowhere", "GET"), ("/kept", "POST")):
        headers = ask(server, path, method)[0].headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "Server" not in headers


def test_inline_styles_run_by_their_checksum(server: WebServer) -> None:
    """What an answer names as its own inline text is allowed, for that answer alone."""
    policy = ask(server, "/styled")[0].headers["Content-Security-Policy"]
    assert re.search(r"style-src 'self' 'sha256-[A-Za-z0-9+/]{43}='", policy)
    assert "sha256" not in ask(server, "/kept")[0].headers["Content-Security-Policy"]


def test_a_version_that_the_browser_has_is_not_sent_again(server: WebServer) -> None:
    """An answer carries its version and how long it may be kept, and is 304 for who has it."""
    response, _ = ask(server, "/kept")
    assert response.headers["ETag"] == '"v1"'
    assert response.headers["Cache-Control"] == FOR_EVER
    again, body = ask(server, "/kept", If_None_Match='"v0", W/"v1"')
    assert (again.status, body, again.headers["ETag"]) == (304, b"", '"v1"')
    assert again.headers["Cache-Control"] == FOR_EVER
    assert ask(server, "/said/a")[0].headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        ("page", 404, "no &lt;such&gt; page"),
        ("damaged", 502, "index is damaged; run verify"),
        ("away", 503, "the store is away"),
        ("bug", 500, "500: Internal Server Error"),
    ],
)
def test_errors_are_pages_of_one_sentence(
    server: WebServer, caplog: pytest.LogCaptureFixture, kind: str, status: int, text: str
) -> None:
    """What goes wrong is said in a sentence, escaped; of a bug the browser sees no traceback."""
    with caplog.at_level(logging.WARNING):
        response, body = ask(server, f"/fails/{kind}")
    assert response.status == status
    assert text in body.decode()
    assert b"Traceback" not in body
    assert b"secret" not in body
    assert bool(caplog.records) == (kind != "page")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:1", 200),
        ("localhost", 200),
        ("[::1]:80", 200),
        (socket.gethostname(), 200),
        ("attacker.example", 403),
        ("localhost.attacker.example", 403),
        ("127.0.0.1.attacker.example:8000", 403),
        ("localhost@attacker.example", 400),
        ("[nonsense", 403),
        ("", 403),
    ],
)
def test_only_names_of_its_own_are_answered(server: WebServer, host: str, status: int) -> None:
    """A name that is none of this machine's, as DNS rebinding would send, is refused."""
    text = f"GET /kept HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert int(ask_raw(server, text.encode()).split(b" ")[1]) == status


def test_a_name_may_be_added() -> None:
    """A proxy's name is answered once the settings have it."""
    with WebServer(ROUTES, WebSettings(host_names=("Lab.example",))) as server:
        assert ask(server, "/kept", Host="lab.example")[0].status == 200
        assert ask(server, "/kept", Host="lab.example.org")[0].status == 403


def test_a_token_is_given_once_and_then_kept_in_a_cookie(guarded: WebServer) -> None:
    """With the token comes a strict cookie and a page that leads to the same page without it."""
    response, body = ask(guarded, f"/said/x?b=1&token={TOKEN}&c=%26")
    assert response.status == 200
    assert b'content="0; url=/said/x?b=1&amp;c=%26"' in body
    text = response.headers["Set-Cookie"]
    assert "HttpOnly" in text
    assert "SameSite=Strict" in text
    (cookie,) = SimpleCookie(text).values()
    response, body = ask(guarded, "/said/x?b=1", Cookie=f"{cookie.key}={cookie.value}")
    assert (response.status, b"what" in body) == (200, True)


@pytest.mark.parametrize(
    ("path", "cookie"),
    [
        ("/kept", ""),
        ("/kept?token=", ""),
        (f"/kept?token={TOKEN[:-1]}", ""),
        (f"/kept?token={TOKEN}x", ""),
        ("/kept?token=%ff", ""),
        ("/kept", "serengeti-etl-{port}="),
        ("/kept", "serengeti-etl-{port}=wrong"),
        ("/kept", f"serengeti-etl-1={TOKEN}"),
        ("/nowhere", ""),
    ],
)
def test_without_the_token_nothing_is_shown(guarded: WebServer, path: str, cookie: str) -> None:
    """No token, a wrong one, or another server's cookie: a page that says what is needed."""
    headers = {"Cookie": cookie.format(port=guarded.port)} if cookie else {}
    response, body = ask(guarded, path, **headers)
    assert response.status in (400, 403)
    assert b"kept" not in body
    assert "Set-Cookie" not in response.headers
    assert response.status == 400 or b"needs a token" in body


def test_the_way_on_from_a_token_stays_here(guarded: WebServer) -> None:
    """A path of two slashes does not lead to another host."""
    line = f"GET //evil.example/x?token={TOKEN} HTTP/1.1\r\n"
    text = f"{line}Host: localhost\r\nConnection: close\r\n\r\n"
    assert b'content="0; url=/evil.example/x"' in ask_raw(guarded, text.encode())


def test_others_are_let_in_by_a_token_only() -> None:
    """An address that others reach is refused without a token, before anything listens."""
    server = WebServer(ROUTES, WebSettings(address="0.0.0.0:0"))
    with pytest.raises(ConfigError, match="token is None, but it must be given"), server:
        pytest.fail("it serves")


@pytest.mark.parametrize("address", ["", "8000", "127.0.0.1", "a:b", "a:99999", "u@a:1", "a:1/x"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    """All else is refused when the settings are made."""
    with pytest.raises(ConfigError, match="must be host:port"):
        WebSettings(address=address)


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "sixteen letters ", "ü" * 20])
def test_a_token_is_long_and_plain(token: str) -> None:
    """A token that can be guessed, or does not fit an address, is refused without being shown."""
    with pytest.raises(ConfigError, match="token must be 16") as caught:
        WebSettings(token=token)
    assert not token or token not in str(caught.value)


def test_an_address_in_use_is_said(server: WebServer) -> None:
    """A port that is taken is a ConfigError that names it."""
    second = WebServer(ROUTES, WebSettings(address=f"127.0.0.1:{server.port}"))
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{server.port} cannot be"), second:
        pytest.fail("it serves")


def test_a_slow_store_does_not_keep_other_pages() -> None:
    """While every thread that waits for a store is held up, other pages are answered."""
    release = threading.Event()

    def held(_: Request) -> Answer:
        release.wait(120)
        return Answer(body=b"late")

    routes = (*ROUTES, Route(pattern="/held", answer=held, is_slow=True))
    with WebServer(routes, WebSettings(num_threads=2)) as server:
        found: list[bytes] = []
        asking = [
            threading.Thread(target=lambda: found.append(ask(server, "/held")[1])) for _ in range(6)
        ]
        for thread in asking:
            thread.start()
        assert ask(server, "/kept")[1] == b"kept"
        assert not found
        release.set()
        for thread in asking:
            thread.join(120)
        assert found == [b"late"] * 6


def test_what_nobody_waits_for_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests whose browser has gone meanwhile are dropped, not answered one after the other."""
    release, made = threading.Event(), []
    come, gone = list[str](), list[str]()

    def held(request: Request) -> Answer:
        made.append(request.value("n"))
        release.wait(120)
        return Answer(body=b"")

    def noted(name: str, calls: list[str]) -> None:
        method = getattr(_Handler, name)

        def note(handler: _Handler) -> None:
            method(handler)
            calls.append(handler.request.path)

        monkeypatch.setattr(_Handler, name, note)

    noted("prepare", come)
    noted("on_connection_close", gone)

    routes = (*ROUTES, Route(pattern="/held", answer=held, is_slow=True))
    with WebServer(routes, WebSettings(num_threads=1)) as server:
        place = ("127.0.0.1", server.port)
        connections = [socket.create_connection(place, timeout=60) for _ in range(5)]
        for number, connection in enumerate(connections):
            connection.sendall(f"GET /held?n={number} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            wait_for(lambda: bool(made), "the first request's work")
        wait_for(lambda: len(come) == 5, "all requests")
        for connection in connections[1:]:
            connection.close()
        wait_for(lambda: len(gone) == 4, "the end of four")
        release.set()
        ask(server, "/held?n=last")
        connections[0].close()
    assert made == ["0", "last"]


def test_it_stops_from_another_thread_with_work_under_way() -> None:
    """Stopping ends ``wait``, frees the port, and does not wait for a store that hangs."""
    begun, release = threading.Event(), threading.Event()

    def held(_: Request) -> Answer:
        begun.set()
        release.wait(120)
        return Answer(body=b"")

    with WebServer((Route(pattern="/held", answer=held, is_slow=True),)) as server:
        port = server.port
        connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        connection.sendall(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert begun.wait(60)
        threading.Timer(0.1, server.stop).start()
        server.wait()
    assert connection.recv(1) == b""
    connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    release.set()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /kept HTTP/1.1\r\n\r\n",
        b"GET /kept HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n",
        b"GET /kept HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 99_999 + b"\r\n\r\n",
        b"GET http://attacker.example/kept HTTP/1.0\r\nHost: localhost\r\n\r\n",
    ],
)
def test_nonsense_is_refused_and_the_server_lives(server: WebServer, request_bytes: bytes) -> None:
    """Malformed and oversized requests get no page, and the next one is answered."""
    assert b"200 OK" not in ask_raw(server, request_bytes)
    assert ask(server, "/kept")[0].status == 200
