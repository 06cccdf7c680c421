"""The processes that a process has started, and those that they have; the home of psutil."""

import contextlib
import signal
from collections.abc import Iterable

import psutil


def below(pid: int) -> list[psutil.Process]:
    """All processes below ``pid``, whatever group or session they are in; [] if it is gone.

    Each is known by its start as well: another one of the same number is never taken for it.
    """
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each that still runs."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)
