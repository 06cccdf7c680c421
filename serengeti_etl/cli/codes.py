"""What a command ends with: exit codes, and the words for what went wrong."""

import contextlib
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import click

from serengeti_etl.errors import Incomplete, SerengetiError

COMPLETE, WITH_REJECTS, INCOMPLETE, REFUSED = 0, 2, 3, 4


def leave(code: int) -> NoReturn:
    """End the process now, whatever its threads do; all that matters has been put away."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Requests cannot be called back, and Python waits at its end for the threads that made them,
    # such as the loader's: for minutes, where they ask a dead store.
    os._exit(code)


def say_error(error: SerengetiError | OSError, *, debug: bool) -> int:
    """Say what went wrong in one line; the exit code that goes with it."""
    from serengeti_etl.retry import is_transient

    if debug:
        traceback.print_exception(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    click.echo(f"serengeti-etl: {error}{notes}", err=True)
    # A full disk or a store that is away may pass, not what is refused or never there.
    return INCOMPLETE if isinstance(error, Incomplete) or is_transient(error) else REFUSED


def say_interrupted() -> int:
    """Say how to go on after a signal; the exit code that goes with it."""
    click.echo(f"serengeti-etl: interrupted; to continue, run: {same_command()}", err=True)
    return INCOMPLETE


def same_command() -> str:
    """This command, for a shell; of what may be secret, only where it stood."""
    return shlex.join([*own_program(), *_without_secrets(sys.argv[1:])])


def own_program() -> list[str]:
    """How this program was started."""
    program = sys.argv[:1]
    if Path(program[0]).name == "__main__.py":
        program = [sys.executable, "-m", "serengeti_etl"]
    return program


def same_torchrun(num_ranks: int) -> str:
    """This command on as many ranks; without the dashes torchrun takes ``--run`` for its own."""
    start = ["torchrun", "--nproc-per-node", str(num_ranks), "-m", "serengeti_etl", "--"]
    return shlex.join([*start, *_without_secrets(sys.argv[1:])])


def _without_secrets(arguments: list[str]) -> list[str]:
    from serengeti_etl.runs.channels import shown_url

    shown = list(arguments)
    for at, argument in enumerate(arguments):
        option, separator, value = argument.partition("=")
        if option == "--alert" and separator:
            shown[at] = f"--alert={shown_url(value)}"
        elif at and arguments[at - 1] == "--alert":
            shown[at] = shown_url(argument)
    return shown
