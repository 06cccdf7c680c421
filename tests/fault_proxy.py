"""A real S3 server behind a proxy that fails on purpose: requests are passed on as they are signed.

``fault_server`` knows the faults; what is done and answered is the real server's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests.fault_server import Fault, FaultServer, _Handler, serve

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultServer]:
    """A handle on a proxy in front of the S3 server at ``upstream``; it holds no objects."""
    place = urlsplit(upstream).netloc

    class Proxy(_Proxy):
        upstream = place

    with serve(FaultServer({}), Proxy) as handle:
        yield handle


class _Proxy(_Handler):
    """Passes the requests of one connection on."""

    upstream: str

    def _act(self, key: str, body: bytes, fault: Fault | None) -> None:
        """Have it done by the server behind, and pass its answer back."""
        del key  # the path says it
        connection = HTTPConnection(self.upstream, timeout=60)
        # Headers go on as they came: the signature covers the name of this host.
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        headers = {n: v for n, v in answer.getheaders() if n.lower() not in _HOP_BY_HOP}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.headers["Content-Length"] or "0"
        self._send(answer.status, headers, content, fault)
