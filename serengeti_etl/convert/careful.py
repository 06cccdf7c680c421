"""Photographs resized where none can do harm: in a process of its own, with a limit on its memory.

A photograph that kills what resizes it, by a fault in a library or by the memory that it takes,
would kill one worker of a cluster after the other. Here it kills a child, to which one photograph
is handed at a time, so that it is known which one it was. A child can also be killed by chance: by
the system that runs out of memory, or by a person. So a photograph is blamed only when one child
after the other dies of it, each of them new and with nothing else to do.
"""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from serengeti_etl.config import MIB, ResizeSettings
from serengeti_etl.convert.resize import ResizedImage, resize_to_each
from serengeti_etl.errors import ImageError
from serengeti_etl.stages import Stages

KILLED = "killed"
"""The reason of a photograph that kills what resizes it."""

SPARE_BYTES = 512 * MIB
"""Memory that resizing may take, whatever the photograph."""

BYTES_PER_PIXEL = 8
"""And for each pixel that a photograph may have: a progressive JPEG needs six."""

Outcomes = tuple[ResizedImage | ImageError, ...]

_MISTAKE, _OUT_OF_MEMORY = 1, 77  # exit codes of the child; the first is Python's own
_NO_MEMORY = re.compile("(?i)(out of|insufficient) memory")

_TRIES = 2  # the first death may come of something that others left behind
_TRIES_BY_CHANCE = 5  # no photograph sends such signals; but its memory may be why the system does
_CHANCES = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
_WAIT_SECONDS = 0.25  # for each of them, before the next try


class CarefulResizer:
    """Resizes as ``resize_to_each`` does, byte for byte, in a child that may die of it.

    Args:
        wanted: the settings.
    """

    def __init__(self, wanted: Sequence[ResizeSettings]) -> None:
        self.wanted = tuple(wanted)
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def resize(self, photograph: bytes) -> Outcomes:
        """The photograph at each size, or why not; ``KILLED`` if each child dies of it."""
        num_deaths = num_chances = 0
        while num_deaths < _TRIES and num_chances < _TRIES_BY_CHANCE:
            time.sleep(_WAIT_SECONDS * num_chances)
            outcomes = self._ask(photograph)
            if outcomes is not None:
                return outcomes
            code = self._end()
            if code == _MISTAKE:
                raise RuntimeError("the resizer failed; its error is in the worker's log")
            num_chances += code in _CHANCES
            num_deaths += code not in _CHANCES
        message = "the process that resizes it dies of it, or of the memory that it takes"
        return tuple(ImageError(KILLED, message) for _ in self.wanted)

    def _ask(self, photograph: bytes) -> Outcomes | None:
        """The child's answer; None if it died."""
        try:
            if self._child is None:
                self._child = _start()
                _send(self._child.stdin, self.wanted)
            _send(self._child.stdin, photograph)
            outcomes: Outcomes = _receive(self._child.stdout)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            return None
        return outcomes

    def _end(self) -> int | None:
        """Let the child end, if there is one; its exit code."""
        child, self._child = self._child, None
        if child is None:
            return None
        with suppress(BrokenPipeError), child:  # which closes its pipes and waits for it
            pass
        return child.wait()


def _start() -> "subprocess.Popen[bytes]":
    # Not by multiprocessing: a Dask worker is a daemon of its nanny, and may have no children so.
    code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
    return subprocess.Popen(  # noqa: S603 - this Python, this module
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def _send(pipe: IO[bytes] | None, value: Any) -> None:
    assert pipe is not None  # noqa: S101 - it was asked for
    pickle.dump(value, pipe)
    pipe.flush()


def _receive(pipe: IO[bytes] | None) -> Any:
    assert pipe is not None  # noqa: S101 - it was asked for
    return pickle.load(pipe)  # noqa: S301 - from our own process


def serve() -> None:
    """Resize what comes by standard input until it ends: the work of the child."""
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints does not get among the answers
    wanted = _receive(questions)
    _limit_memory(max(settings.max_pixels for settings in wanted))
    while True:
        try:
            outcomes = resize_to_each(_receive(questions), wanted, Stages())
        except EOFError:
            return
        except MemoryError:
            sys.exit(_OUT_OF_MEMORY)
        if any(isinstance(one, ImageError) and _NO_MEMORY.search(one.message) for one in outcomes):
            sys.exit(_OUT_OF_MEMORY)
        _send(answers, outcomes)


def _limit_memory(max_pixels: int) -> None:
    """Let this process have so much more than it has: what a photograph of the limit needs."""
    taken = Path("/proc/self/statm")
    if not taken.exists():
        return  # only Linux counts addresses so that a limit on them means something
    import resource

    num_bytes = int(taken.read_text().split()[0]) * resource.getpagesize()
    limit = num_bytes + SPARE_BYTES + BYTES_PER_PIXEL * max_pixels
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
