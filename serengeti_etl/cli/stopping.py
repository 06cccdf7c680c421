"""Signals: what asks a command to stop, and what ends it when it does not."""

import contextlib
import functools
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

from serengeti_etl.cli.codes import leave, say_interrupted

STOP_SECONDS = 8.0
"""After a signal, the time to put things in order; then the process ends as things are."""

SAVE_SECONDS = 25.0
"""The same for a training: to finish a step and save it. Clouds take a machine away after 30."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def works_long(command: CommandT) -> CommandT:
    """``command``; SIGTERM interrupts it as Ctrl-C does, and either ends it within STOP_SECONDS."""

    @functools.wraps(command)
    def stoppable(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            stop_on_signals()
        return command(*args, **kwargs)

    return cast("CommandT", stoppable)


def _raise_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def stop_on_signals(
    ask: Callable[[], object] = _raise_interrupt,
    *,
    seconds: float | None = None,
    again: bool = True,
) -> None:
    """From now on the first SIGINT or SIGTERM interrupts; a second one, or time, ends at once.

    Args:
        ask: called in the main thread at the first signal.
        seconds: after which the process ends; STOP_SECONDS by default.
        again: whether a second signal ends it at once.
    """
    received, sent = socket.socketpair()
    sent.setblocking(False)  # noqa: FBT003 - Python's own way to say it
    # Python tells the main thread of a signal only when its present call is over, which is a
    # minute where that asks a dead store. This is written at once.
    signal.set_wakeup_fd(sent.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, functools.partial(_interrupt, ask))

    limit = STOP_SECONDS if seconds is None else seconds
    arguments = (received, sent, limit, again)
    threading.Thread(target=_enforce, args=arguments, name="stop", daemon=True).start()


def _enforce(received: socket.socket, _sent: socket.socket, seconds: float, again: bool) -> None:  # noqa: FBT001 - a thread takes no names
    """End the process so long after the first signal, or at the second."""
    received.recv(1)
    if again:
        received.settimeout(seconds)
        with contextlib.suppress(TimeoutError):
            received.recv(1)
    else:
        time.sleep(seconds)
    leave(say_interrupted())


def _interrupt(ask: Callable[[], object], _number: int, _frame: object) -> None:
    """Ask the main thread to stop; once, so that it is not interrupted while it tidies up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # of what is ignored `_enforce` would not hear
    ask()
