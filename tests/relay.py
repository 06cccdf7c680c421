"""A TCP relay that models a far store: each byte arrives half a round trip after it was sent.

It is a delay line, not a pause: chunks wait side by side, so the latency takes nothing from the
throughput. Opening a connection costs no round trip here, unlike on a real network.

    python tests/relay.py HOST PORT LATENCY_SECONDS

prints the port that it listens on, and ends when its standard input does.
"""

import asyncio
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

# A direction holds at most this much, as a TCP window does: 300 MB/s per connection at 50 ms.
WINDOW_BYTES = 8 << 20


@contextmanager
def relay(host: str, port: int, latency_seconds: float) -> Iterator[int]:
    """The local port of a relay to ``host:port``, in a process of its own."""
    command = [sys.executable, __file__, host, str(port), str(latency_seconds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    # Both pipes are there, having been asked for above.
    stdin, stdout = process.stdin, process.stdout
    try:
        line = stdout.readline() if stdout else b""
        if not line:
            raise RuntimeError(f"the relay to {host}:{port} did not start")
        yield int(line)
    finally:
        for pipe in (stdin, stdout):
            if pipe is not None:
                pipe.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class End(asyncio.Protocol):
    """One end of a relayed connection: what it receives goes to ``other`` after ``delay``."""

    def __init__(self, delay: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.delay = delay
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        # (when to deliver, bytes) in order; no bytes stand for the end of the stream.
        self.line: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self.is_full = False  # this end takes no more for the moment
        self.is_finished = False  # the end of the stream was passed on
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; asyncio calls this once."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Put what came in onto the line, and stop reading while the window is full."""
        self.line.append((self.loop.time() + self.delay, data))
        self.held_bytes += len(data)
        if self.held_bytes >= WINDOW_BYTES and self.transport is not None:
            self.transport.pause_reading()
        self.schedule()

    def eof_received(self) -> bool:
        """Pass the end of the stream on like data, and keep the other direction open."""
        self.line.append((self.loop.time() + self.delay, b""))
        self.schedule()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other side in turn: at once after a reset, else after what is on the line."""
        self.is_full = False
        self.line.append((self.loop.time() + self.delay, b""))
        if self.other is not None:
            self.other.line.clear()  # nobody is left to take it
            if error is not None:
                self.line.clear()
                self.loop.call_later(self.delay, self.other.abort)
        self.schedule()

    def abort(self) -> None:
        """Drop the connection with a reset."""
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Note that this end takes no more for the moment."""
        self.is_full = True

    def resume_writing(self) -> None:
        """Go on with what waits for this end."""
        self.is_full = False
        if self.other is not None:
            self.other.schedule()

    def schedule(self) -> None:
        """See that the head of the line is delivered when it is due."""
        if self.line and self.timer is None and self.other is not None and not self.other.is_full:
            self.timer = self.loop.call_at(self.line[0][0], self.deliver)

    def deliver(self) -> None:
        """Write all that is due to the other end."""
        self.timer = None
        # What is due within this time goes along: the clock of a selector ticks in milliseconds.
        now = self.loop.time() + 0.0005
        while self.line and self.other is not None and not self.other.is_full:
            if self.line[0][0] > now:
                break
            self.pass_on(self.other, self.line.popleft()[1])
        if self.held_bytes < WINDOW_BYTES and self.transport is not None:
            self.transport.resume_reading()
        self.schedule()

    def pass_on(self, other: "End", data: bytes) -> None:
        """Write one chunk, or the end of the stream, to the other end."""
        self.held_bytes -= len(data)
        if other.transport is None or other.transport.is_closing():
            return
        if data:
            other.transport.write(data)
        elif self.transport is None or self.transport.is_closing():
            other.transport.close()
        else:
            other.transport.write_eof()
            self.is_finished = True
            if other.is_finished:  # both directions: nothing else would close them
                self.transport.close()
                other.transport.close()


class Entry(End):
    """The end that a client connects to; it opens the connection to the store."""

    def __init__(self, host: str, port: int, delay: float) -> None:
        super().__init__(delay)
        self.host = host
        self.port = port
        self.opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to open the far side; what comes in meanwhile waits on the line."""
        super().connection_made(transport)
        self.opening = self.loop.create_task(self.open())

    async def open(self) -> None:
        """Connect to the store, or drop the client as an unreachable store would."""
        try:
            _, far = await self.loop.create_connection(self.far_end, self.host, self.port)
        except OSError:
            self.abort()
            return
        self.other = far
        self.schedule()

    def far_end(self) -> End:
        """The end at the store's side, tied to this one."""
        far = End(self.delay)
        far.other = self
        return far


async def serve(host: str, port: int, latency_seconds: float) -> None:
    """Relay to ``host:port`` until standard input ends; print the port first."""
    loop = asyncio.get_running_loop()
    finished = asyncio.Event()

    def wait_for_parent() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(finished.set)

    threading.Thread(target=wait_for_parent, daemon=True).start()
    server = await loop.create_server(
        lambda: Entry(host, port, latency_seconds / 2), "127.0.0.1", 0, backlog=1024
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await finished.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
