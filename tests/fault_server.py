"""A small S3 server in a thread, which fails on request: what no well-behaved server will do.

    with fault_server({"a.jpg": data}) as server:
        server.fail("a.jpg", SLOW_DOWN, times=2)

Faults of one key take their turns in the order in which they were asked for. Positions in a body
count the bytes that are sent, so those of the range where one was asked for.
"""

import contextlib
import hashlib
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
"""The bucket of the objects; the server does not look at the name."""


@dataclass(frozen=True)
class Refusal:
    """An answer with S3's XML error body in place of the object."""

    status: int
    code: str


SLOW_DOWN = Refusal(503, "SlowDown")
INTERNAL_ERROR = Refusal(500, "InternalError")
ACCESS_DENIED = Refusal(403, "AccessDenied")
EXPIRED_TOKEN = Refusal(400, "ExpiredToken")
NO_SUCH_KEY = Refusal(404, "NoSuchKey")


@dataclass(frozen=True)
class Reset:
    """The connection is reset: before the answer, or in the body after so many bytes."""

    after: int | None = None
    seconds: float = 0.05
    """Between the two, for the client to read those bytes: what it has not read is lost."""


@dataclass(frozen=True)
class Stall:
    """The body stops after so many bytes: for good, or for a time."""

    after: int
    seconds: float | None = None


@dataclass(frozen=True)
class EarlyClose:
    """The connection closes after so many bytes of the body, in good order."""

    after: int
    has_length: bool = True
    """False: no Content-Length, so that the client cannot tell."""


@dataclass(frozen=True)
class Resized:
    """The object is longer, or shorter where negative, than the listing says."""

    by: int


@dataclass(frozen=True)
class FlippedByte:
    """One byte of the body is another one; the ETag is that of the right content."""

    at: int = 0


@dataclass(frozen=True)
class WrongETag:
    """The ETag is not the content's."""


@dataclass(frozen=True)
class Swapped:
    """The answer is that to a request for another object, whole and with its own length."""

    key: str
    """Of the other object."""

    has_own_etag: bool
    """False: the ETag is that of the object which was asked for."""


@dataclass(frozen=True)
class LostAnswer:
    """What is asked for is done, and the connection reset in place of the answer."""


@dataclass(frozen=True)
class Silence:
    """Nothing is done or answered until the client hangs up."""


Fault = (
    Refusal
    | Reset
    | Stall
    | EarlyClose
    | Resized
    | FlippedByte
    | WrongETag
    | Swapped
    | LostAnswer
    | Silence
)


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    key: str
    """Empty for a listing."""

    time: float
    """By ``time.monotonic``."""

    byte_range: str | None
    query: str = ""


@dataclass
class _Plan:
    method: str
    fault: Fault
    num_left: float


@dataclass
class FaultServer:
    """A handle on the running server; all of it may be used from any thread."""

    objects: dict[str, bytes]
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    max_in_flight: int = 0
    """The greatest number of requests that were being answered at once."""

    on_request: Callable[[], object] = field(default=lambda: None)
    """Called with each request, before it is decided what goes wrong with it."""

    choose: Callable[[Request], Fault | None] = field(default=lambda _: None)
    """Says of each request what goes wrong with it, where ``fail`` has not; one at a time."""

    num_faults: int = 0
    """How many requests something went wrong with."""

    _plans: dict[str, list[_Plan]] = field(default_factory=dict)
    _num_in_flight: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)
    _connections: set[socket.socket] = field(default_factory=set)

    @property
    def times(self) -> list[float]:
        """When each request came in, by ``time.monotonic``."""
        return [request.time for request in self.requests]

    def fail(
        self, key: str, fault: Fault, times: int | None = None, *, method: str = "GET"
    ) -> None:
        """Fail the next ``times`` requests for ``key``, or all; an empty key means listings."""
        plan = _Plan(method, fault, float("inf") if times is None else times)
        with self._lock:
            self._plans.setdefault(key, []).append(plan)

    def heal(self, key: str) -> None:
        """Forget the faults of ``key``."""
        with self._lock:
            self._plans.pop(key, None)

    def wait_for_the_end(self, seconds: float) -> None:
        """Until the server is stopped, or so long."""
        self._closing.wait(seconds)

    def num_requests(self, key: str, method: str = "GET") -> int:
        """How many requests came in for ``key``."""
        asked = (method, key)
        return sum((request.method, request.key) == asked for request in list(self.requests))

    @contextmanager
    def _receive(self, request: Request) -> Iterator[Fault | None]:
        """Count a request in, and out again; gives what is to go wrong with it."""
        with self._lock:
            self.requests.append(request)
            self._num_in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self._num_in_flight)
        try:
            self.on_request()
            with self._lock:
                fault = self._next_fault(request)
            yield fault
        finally:
            with self._lock:
                self._num_in_flight -= 1

    def _next_fault(self, request: Request) -> Fault | None:
        for plan in self._plans.get(request.key, []):
            if plan.method == request.method and plan.num_left > 0:
                plan.num_left -= 1
                self.num_faults += 1
                return plan.fault
        fault = self.choose(request)
        self.num_faults += fault is not None
        return fault

    def _close(self) -> None:
        self._closing.set()  # wakes what stalls
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def fault_server(objects: Mapping[str, bytes], port: int = 0) -> Iterator[FaultServer]:
    """A handle on an S3 server with these objects by key, in a bucket of any name.

    Args:
        objects: contents by key.
        port: to listen on; 0 for any that is free.
    """
    with serve(FaultServer(dict(objects)), _Handler, port) as handle:
        yield handle


@contextmanager
def serve(handle: FaultServer, answerer: "type[_Handler]", port: int = 0) -> Iterator[FaultServer]:
    """``handle``, with a server behind it that answers as ``answerer`` does.

    Args:
        handle: its objects, and the faults to come.
        answerer: answers the requests.
        port: to listen on; 0 for any that is free.
    """

    class Bound(answerer):  # type: ignore[misc,valid-type]  # a class of each server's own
        store = handle

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 1024

        def handle_error(self, request: object, client_address: object) -> None:
            """Keep quiet about a client that hung up; report all else as ever."""
            if not isinstance(sys.exception(), ConnectionError):
                super().handle_error(request, client_address)  # type: ignore[arg-type]

    server = Server(("127.0.0.1", port), Bound)
    handle.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield handle
    finally:
        server.shutdown()
        handle._close()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    store: FaultServer

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.store._lock:
            self.store._connections.add(self.connection)

    def finish(self) -> None:
        with self.store._lock:
            self.store._connections.discard(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name is Python's)
        """Keep quiet."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        # "/bucket/some/key" splits into nothing, the bucket and the key.
        path, query = urlsplit(self.path)[2:4]
        parts = path.split("/", 2)
        key = unquote(parts[2]) if len(parts) > 2 else ""
        byte_range = self.headers.get("Range")
        request = Request(self.command, key, time.monotonic(), byte_range, query)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.store._receive(request) as fault, self._client_may_leave():
            if isinstance(fault, Refusal):
                self._refuse(fault)
            elif isinstance(fault, Reset) and fault.after is None:
                self._reset()
            elif isinstance(fault, Silence):
                self._hold(float("inf"))
                self.close_connection = True
            else:
                self._act(key, body, fault)

    def _act(self, key: str, body: bytes, fault: Fault | None) -> None:
        """Do what is asked for, and answer."""
        if self.command in ("POST", "DELETE"):
            self._refuse(Refusal(501, "NotImplemented"))
        elif self.command == "PUT":
            self._take(key, body, fault)
        elif key:
            self._give(key, fault)
        else:
            self._send(200, {"Content-Type": "application/xml"}, self._listing(), fault)

    @contextmanager
    def _client_may_leave(self) -> Iterator[None]:
        """A client that gave up is no failure of the server's."""
        try:
            yield
        except ConnectionError:
            self.close_connection = True

    def _refuse(self, refusal: Refusal) -> None:
        body = f"<Error><Code>{refusal.code}</Code><Message>asked for by a test</Message></Error>"
        self._send(refusal.status, {"Content-Type": "application/xml"}, body.encode())

    def _take(self, key: str, body: bytes, fault: Fault | None) -> None:
        if self.headers.get("If-None-Match") == "*" and key in self.store.objects:
            self._refuse(Refusal(412, "PreconditionFailed"))
            return
        self.store.objects[key] = body
        self._send(200, {"ETag": _etag(body)}, b"", fault)

    def _give(self, key: str, fault: Fault | None) -> None:
        content = self.store.objects.get(key)
        if content is None:
            self._refuse(NO_SUCH_KEY)
            return
        if isinstance(fault, Resized):
            content = content + bytes(fault.by) if fault.by > 0 else content[: fault.by]
        etag = _etag(content + b"!") if isinstance(fault, WrongETag) else _etag(content)
        if isinstance(fault, Swapped):
            content = self.store.objects[fault.key]
            etag = _etag(content) if fault.has_own_etag else etag
        headers = {"ETag": etag, "Last-Modified": formatdate(0, usegmt=True)}
        headers |= {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        byte_range = self.headers.get("Range")
        if byte_range is None:
            self._send(200, headers, content, fault)
            return
        start, end = _byte_range(byte_range, len(content))
        if start >= end:
            self._refuse(Refusal(416, "InvalidRange"))
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        self._send(206, headers, content[start:end], fault)

    def _listing(self) -> bytes:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token") or query.get("start-after") or ""
        limit = int(query.get("max-keys", 1000))
        keys = sorted(key for key in self.store.objects if key.startswith(prefix) and key > after)
        entries, more_after = keys[:limit], keys[limit - 1] if len(keys) > limit else ""
        folders = {_folder(key, prefix, delimiter) for key in entries} - {""}
        entries = [key for key in entries if not _folder(key, prefix, delimiter)]
        lines = [f"<IsTruncated>{str(bool(more_after)).lower()}</IsTruncated>"]
        if more_after:
            lines.append(f"<NextContinuationToken>{escape(more_after)}</NextContinuationToken>")
        lines += [_entry(key, self.store.objects[key]) for key in entries]
        lines += [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            for name in sorted(folders)
        ]
        return f"<ListBucketResult>{''.join(lines)}</ListBucketResult>".encode()

    def _send(
        self, status: int, headers: Mapping[str, str], body: bytes, fault: Fault | None = None
    ) -> None:
        if isinstance(fault, LostAnswer):
            self._reset()
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if isinstance(fault, EarlyClose) and not fault.has_length:
            self.send_header("Connection", "close")
        elif "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(body, fault)

    def _send_body(self, body: bytes, fault: Fault | None) -> None:
        match fault:
            case FlippedByte(at=at):
                self.wfile.write(body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :])
            case Stall(after=after, seconds=seconds):
                self.wfile.write(body[:after])
                self._hold(float("inf") if seconds is None else seconds)
                self.wfile.write(body[after:])
            case EarlyClose(after=after):
                self.wfile.write(body[:after])
                self.close_connection = True
            case Reset(after=int(after), seconds=seconds):
                self.wfile.write(body[:after])
                time.sleep(seconds)
                self._reset()
            case _:
                self.wfile.write(body)

    def _hold(self, seconds: float) -> None:
        """Wait; a client that hangs up meanwhile ends it, and counts as in flight no longer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.store._closing.is_set():
            wait_seconds = min(0.05, max(0.0, end - time.monotonic()))
            if select.select([self.connection], [], [], wait_seconds)[0]:
                raise ConnectionAbortedError

    def _reset(self) -> None:
        # Without lingering, closing sends a reset; it must come before Python's orderly shutdown.
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with self.store._lock:
            self.store._connections.discard(self.connection)
        os.close(self.connection.detach())


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _byte_range(asked: str, size: int) -> tuple[int, int]:
    """Start and end of a range such as ``bytes=2-5``, ``bytes=2-`` or ``bytes=-5``."""
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """The part of ``key`` that a listing by ``delimiter`` shows in its place, or nothing."""
    if not delimiter or delimiter not in key[len(prefix) :]:
        return ""
    return key[: key.index(delimiter, len(prefix)) + len(delimiter)]


def _entry(key: str, content: bytes) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(_etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
    )
