"""Steps that hang: found by a watchdog of Python's own, and named with their stack."""

import faulthandler
import os
import re
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

_ARM_AGAIN_SECONDS, _ARM_AGAIN_SHARE = 1.0, 0.05
"""Arming starts a thread and ends another: on a busy machine that may take milliseconds."""

_NUM_FRAMES = 8

_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


@dataclass(frozen=True, kw_only=True, slots=True)
class Dump:
    """Where all threads stood when the main thread had not come on for too long.

    Attributes:
        text: as ``faulthandler`` writes it, every thread.
        frames: of the main thread, the innermost first, such as ``read (reader.py:88)``.
        written_at: in seconds since 1970.
    """

    text: str
    frames: tuple[str, ...]
    written_at: float

    @classmethod
    def of(cls, text: str, written_at: float) -> Self:
        """The dump in the words of ``faulthandler``."""
        main = _main_thread()
        frames: list[str] = []
        is_main = False
        for line in text.splitlines():
            if "hread 0x" in line:
                is_main = main in line
            found = _FRAME.match(line) if is_main else None
            if found:
                frames.append(f"{found[3]} ({Path(found[1]).name}:{found[2]})")
        return cls(text=text, frames=tuple(frames[:_NUM_FRAMES]), written_at=written_at)


class HangWatch:
    """A watchdog that writes every thread's stack down, unless it is told in time of progress.

    It is a thread that needs no Python: it works while the interpreter's lock is held. There is one
    in a process.

    Args:
        seconds: without progress; it may take a twentieth more, or a second.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the watch
        self._armed_at = float("-inf")
        self._num_read = self._num_seen = 0

    def touch(self) -> None:
        """Progress: count anew from now. To be called often; arms at most once a second."""
        now, again = time.monotonic(), max(_ARM_AGAIN_SECONDS, _ARM_AGAIN_SHARE * self._seconds)
        if now - self._armed_at >= again:
            self._armed_at = now
            # Later by as much as it may have been told of progress without arming.
            faulthandler.dump_traceback_later(self._seconds + again, file=self._file.fileno())

    def dump(self) -> Dump | None:
        """What was written down since the last dump; None if nothing was, or more may come."""
        descriptor = self._file.fileno()
        found, num_seen = os.fstat(descriptor), self._num_seen
        self._num_seen = num_bytes = found.st_size
        if num_bytes == self._num_read or num_bytes != num_seen:
            return None
        content = os.pread(descriptor, num_bytes - self._num_read, self._num_read)
        self._num_read = num_bytes
        text = content.decode(errors="replace")
        # It stops after a hundred threads, and the main one, the oldest, comes last.
        text = text if _main_thread() in text else f"{text}\n{_stack_of_main()}"
        return Dump.of(text, written_at=found.st_mtime)

    def end(self) -> None:
        """Watch no more."""
        faulthandler.cancel_dump_traceback_later()


def _main_thread() -> str:
    """As ``faulthandler`` calls it."""
    return f"{threading.main_thread().ident or 0:#018x}"


def _stack_of_main() -> str:
    """Where the main thread stands now, as ``faulthandler`` writes it."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented
    lines = [f"Thread {_main_thread()} (most recent call first):"]
    for one, line in traceback.walk_stack(frame):
        lines.append(f'  File "{one.f_code.co_filename}", line {line} in {one.f_code.co_name}')
    return "\n".join(lines)
