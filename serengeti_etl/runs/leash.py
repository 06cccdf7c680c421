"""A command on a leash: it is stopped when who holds the leash has died, on any POSIX system.

``python -m serengeti_etl.runs.leash COMMAND…`` runs the command and passes signals and output on.
Its stdin is the leash: a pipe whose other end the holder keeps open. When the holder is gone, even
by SIGKILL, the pipe ends; the command gets SIGTERM, so that it can save, and SIGKILL if it stays.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from serengeti_etl.runs.processes import below, send

SAVE_SECONDS = 30.0
"""For the command, to end after SIGTERM."""

NOT_STARTED = 127
SIGNALLED = 128
"""Added to the number of the signal that ended a command."""

_OUTPUT_SECONDS = 2.0


def main(command: Sequence[str]) -> int:
    """Run ``command``; its exit code, with 128 added to a signal's, as shells say it."""
    try:
        child = subprocess.Popen(  # noqa: S603 - the user's own command
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        os.write(2, f"serengeti-etl: cannot start {command[0]}: {error.strerror}\n".encode())
        return NOT_STARTED
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _passing_on(child))
    threading.Thread(target=_stop_without_holder, args=(child,), daemon=True).start()
    pipes = ((child.stdout, 1), (child.stderr, 2))
    pumps = [threading.Thread(target=_pump, args=pipe, daemon=True) for pipe in pipes]
    for pump in pumps:
        pump.start()
    code = child.wait()
    for pump in pumps:
        # What the command has left behind may hold its output open.
        pump.join(_OUTPUT_SECONDS)
    return code if code >= 0 else SIGNALLED - code


def _passing_on(child: "subprocess.Popen[bytes]") -> Callable[[int, object], None]:
    """Passes a signal on once: a second one may end a command that is saving."""
    passed: set[int] = set()

    def pass_on(number: int, _frame: object) -> None:
        if number not in passed:
            passed.add(number)
            child.send_signal(number)

    return pass_on


def _pump(source: IO[bytes], target: int) -> None:
    """Pass output on; without a reader too it is taken, or the command could not save."""
    while part := os.read(source.fileno(), 65_536):
        with contextlib.suppress(OSError):
            while part:
                part = part[os.write(target, part) :]


def _stop_without_holder(child: "subprocess.Popen[bytes]") -> None:
    while os.read(0, 1):
        pass
    child.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(SAVE_SECONDS)
    send(below(os.getpid()), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
