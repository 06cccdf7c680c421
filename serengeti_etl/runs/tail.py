"""The last lines of an output."""

import threading
from collections import deque

NUM_LINES = 200
_NUM_BYTES_OF_LINE = 2000


class Tail:
    """Keeps the last lines of what is fed to it, from any thread.

    Args:
        num_lines: that are kept.
    """

    def __init__(self, num_lines: int = NUM_LINES) -> None:
        self._lines: deque[str] = deque(maxlen=num_lines)
        self._open: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def feed(self, part: bytes, stream: int = 1) -> None:
        """Add output of ``stream``; lines of two streams are not mixed up."""
        with self._lock:
            *lines, rest = (self._open.get(stream, b"") + part).split(b"\n")
            for line in lines:
                self._lines.append(_shown(line))
            # A line that never ends is a progress line, of which the end counts.
            self._open[stream] = rest[-_NUM_BYTES_OF_LINE:]

    def text(self, num_lines: int = NUM_LINES) -> str:
        """The last ``num_lines`` lines, with those that are not ended yet."""
        with self._lock:
            begun = [_shown(line) for line in self._open.values()]
            lines = [*self._lines, *(line for line in begun if line)]
        return "\n".join(lines[-num_lines:])


def _shown(line: bytes) -> str:
    """What a terminal shows of a line: what was written over is gone."""
    last = line.rstrip(b"\r").rpartition(b"\r")[2]
    return last[-_NUM_BYTES_OF_LINE:].decode(errors="replace")
