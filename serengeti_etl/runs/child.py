"""A command as a child process, on a leash and in a group of its own."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO, BinaryIO

from serengeti_etl.runs.leash import SIGNALLED
from serengeti_etl.runs.processes import below, send
from serengeti_etl.runs.tail import Tail

_DUMP_SECONDS = 3.0
"""For processes to write their stacks after SIGABRT."""

_END_SECONDS = 5.0

_SEEN_SECONDS = 5.0
"""Between two looks at which processes there are, which takes some 10 ms."""


class Child:
    """The command, from now on.

    It has its own session, so that Ctrl-C in a terminal reaches the supervisor alone, which then
    asks it to stop.

    Args:
        command: program and arguments.
        outputs: where its stdout and stderr are passed on to.
    """

    def __init__(self, command: Sequence[str], outputs: tuple[BinaryIO, BinaryIO]) -> None:
        self._tail = Tail()
        leash = [sys.executable, "-m", "serengeti_etl.runs.leash", *command]
        self._process = subprocess.Popen(  # noqa: S603 - the user's own command
            leash,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._seen, self._seen_at = below(self._process.pid), time.monotonic()
        pipes = (self._process.stdout, self._process.stderr)
        self._pumps = [
            threading.Thread(target=self._pump, args=(*pipe, number), daemon=True)
            for number, pipe in enumerate(zip(pipes, outputs, strict=True), 1)
        ]
        for pump in self._pumps:
            pump.start()

    def code(self) -> int | None:
        """Its exit code, 128 and more for signals; None while it runs."""
        if time.monotonic() - self._seen_at > _SEEN_SECONDS:
            # Kept once it is dead: then what it has left behind can no longer be found.
            self._seen = below(self._process.pid) or self._seen
            self._seen_at = time.monotonic()
        code = self._process.poll()
        return code if code is None or code >= 0 else SIGNALLED - code

    def ask_to_stop(self) -> None:
        """SIGTERM: it saves and ends."""
        self._process.terminate()

    def wait(self, seconds: float) -> int | None:
        """Its exit code, once it has ended within so many seconds; else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.code()

    def dump(self) -> None:
        """Have all its processes write their stacks, of which they die, and wait for that."""
        running = below(self._process.pid)
        send(running, signal.SIGABRT)
        send(running, signal.SIGCONT)  # one that is held gets no signal else
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DUMP_SECONDS)

    def end(self) -> None:
        """Make sure that nothing of it runs any more."""
        # torchrun's workers have sessions of their own: a group's end is not theirs.
        send([*self._seen, *below(self._process.pid)], signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pump in self._pumps:
            pump.join(_END_SECONDS)

    def tail(self, num_lines: int) -> str:
        """The last lines of its output."""
        return self._tail.text(num_lines)

    def _pump(self, source: IO[bytes], target: BinaryIO, stream: int) -> None:
        while part := os.read(source.fileno(), 65_536):
            self._tail.feed(part, stream)
            # Without a reader of ours the child's work goes on.
            with contextlib.suppress(OSError, ValueError):
                target.write(part)
                target.flush()
