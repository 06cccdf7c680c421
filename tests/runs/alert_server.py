"""A real HTTP server on loopback that keeps what is posted to it, and can fail in several ways."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Posted:
    """A request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


@dataclass
class AlertServer:
    """What came in, and what it answers."""

    port: int = 0
    posted: list[Posted] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    """Statuses of the next requests; 200 after them."""

    hang: threading.Event | None = None
    """Requests wait for it before they are answered."""

    came: threading.Condition = field(default_factory=threading.Condition)

    def url(self, kind: str, path: str = "hook", user: str = "") -> str:
        """Of an ``--alert``."""
        return f"{kind}+http://{user}127.0.0.1:{self.port}/{path}"

    def wait_for(self, number: int, seconds: float = 60) -> list[Posted]:
        """So many requests, once they are there."""
        with self.came:
            assert self.came.wait_for(lambda: len(self.posted) >= number, seconds), self.posted
            return list(self.posted)

    def wait_for_kind(self, kind: str, seconds: float = 60) -> Posted:
        """The first of a webhook's alerts of this kind, once it is there."""

        def found() -> Posted | None:
            return next((one for one in self.posted if one.json()["kind"] == kind), None)

        with self.came:
            posted = self.came.wait_for(found, seconds)
            assert posted is not None, [one.json() for one in self.posted]
            return posted


@contextlib.contextmanager
def alert_server() -> Iterator[AlertServer]:
    """A server on a free port."""
    state = AlertServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with state.came:
                state.posted.append(Posted(self.path, dict(self.headers), body, time.time()))
                status = state.answers.pop(0) if state.answers else 200
                state.came.notify_all()
            if state.hang is not None:
                state.hang.wait(60)
            with contextlib.suppress(OSError):
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.port = server.server_address[1]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield state
        finally:
            if state.hang is not None:
                state.hang.set()
            server.shutdown()
