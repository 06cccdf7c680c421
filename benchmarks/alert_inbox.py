"""A web server on loopback that notes which alert came when."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrived:
    """An alert that came in.

    Attributes:
        at: when, seconds since 1970.
        run: folder or url of the run that it tells of.
        kind: what happened.
        level: how much it matters.
        title: one line, which ends with the state.
    """

    at: float
    run: str
    kind: str
    level: str
    title: str


class Inbox:
    """Alerts in the order in which they came.

    Args:
        port: of the server.
    """

    def __init__(self, port: int) -> None:
        self.url = f"webhook+http://127.0.0.1:{port}/alerts"
        self._arrived: list[Arrived] = []

    def add(self, body: bytes) -> None:
        """Note what was posted just now."""
        value, names = json.loads(body), ("run", "kind", "level", "title")
        self._arrived.append(Arrived(at=time.time(), **{name: value[name] for name in names}))

    def of(self, run: str) -> list[Arrived]:
        """All of one run so far."""
        return [one for one in list(self._arrived) if one.run == run]


@contextmanager
def open_inbox() -> Iterator[Inbox]:
    """An inbox behind a server on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            inbox.add(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        inbox = Inbox(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield inbox
        finally:
            server.shutdown()
