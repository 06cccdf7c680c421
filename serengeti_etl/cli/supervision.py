"""The command that keeps a run going, and what ``train --supervise`` makes of it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from serengeti_etl.cli.alerting import alert_options, open_alerts
from serengeti_etl.cli.codes import INCOMPLETE, REFUSED, own_program, same_command
from serengeti_etl.cli.options import debug_option
from serengeti_etl.cli.stopping import stop_on_signals
from serengeti_etl.errors import ConfigError, require

if TYPE_CHECKING:
    from serengeti_etl.runs.alert import Alert
    from serengeti_etl.runs.supervise import Outcome, SuperviseSettings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_LOOK_SECONDS = 5.0
_SUPERVISED = "--supervised"
_HOURS = click.FloatRange(min=0, min_open=True)

_SHORT_SECONDS = 28.0
"""For the supervisor after a signal: clouds take a machine away after 30."""


def supervise_options(command: CommandT) -> CommandT:
    """``command`` with what a supervisor may be told; `click` wants the last one first."""
    options = (
        click.option(
            "--on-finish", metavar="CMD", help="Run by the shell when it is done; stdin says why."
        ),
        click.option(
            "--on-give-up",
            metavar="CMD",
            help="The same when it ends without: given up, refused, or over a limit.",
        ),
        click.option("--max-restarts", type=click.IntRange(min=0), help="In vain; 10 by default."),
        click.option("--max-hours", type=_HOURS, help="Of the whole run; then it saves and ends."),
        click.option("--max-cost", type=_HOURS, help="Likewise; needs --hourly-rate."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.option("--run", required=True, help="Folder or url that the command's run writes to.")
@supervise_options
@click.option("--hourly-rate", type=_HOURS, help="Price of an hour of the machines.")
@alert_options
@debug_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def supervise(  # noqa: PLR0913 - one parameter per option
    run: str,
    *,
    command: tuple[str, ...],
    alerts: tuple[str, ...],
    alert_level: str,
    alert_quiet: float,
    on_finish: str | None,
    on_give_up: str | None,
    debug: bool,  # noqa: ARG001 - debug is read by main
    **limits: Any,
) -> int:
    """Run COMMAND, and begin it again when it dies or hangs, until it is done.

    \b
    serengeti-etl supervise --run RUN -- serengeti-etl train URL --run RUN
    serengeti-etl supervise --run RUN -- torchrun --nproc-per-node 8 -m serengeti_etl -- train …

    It is begun again after exit code 3, death by a signal, and any other but 0 and 2 (done) and 4
    (refused). SIGTERM and Ctrl-C let it save; then this exits with 3.
    """  # noqa: D301 - click's own mark
    from serengeti_etl.runs.supervise import SuperviseSettings

    given = {name: value for name, value in limits.items() if value is not None}
    settings = SuperviseSettings(**given)
    with open_alerts(alerts, alert_level, alert_quiet) as opened:
        outcome = run_supervised(run, command, settings, opened.send)
    # The alerts have gone out: the hook may shut the machine down.
    return _end(outcome, on_finish, on_give_up)


def self_supervise_options(command: CommandT) -> CommandT:
    """``command`` with ``--supervise``, and what a supervisor may be told."""
    options = (
        click.option(
            "--supervise",
            is_flag=True,
            help="Begin it again when it dies or hangs, from its last checkpoint.",
        ),
        # What a supervisor says to the process that it starts, in place of --supervise.
        click.option(_SUPERVISED, is_flag=True, hidden=True),
    )
    for option in reversed(options):
        command = option(command)
    return supervise_options(command)


def take_supervision(run: str, options: dict[str, Any], hourly_rate: float | None) -> bool:
    """Whether a supervisor has started this process; ``--supervise`` makes it one, and ends here.

    Args:
        run: of this command.
        options: of this command, which are then without these.
        hourly_rate: of this command.

    Raises:
        ConfigError: there is no supervisor for what was told one, or this is a rank of torchrun.
    """
    from serengeti_etl.train.ranks import is_launched

    wants, has = options.pop("supervise"), options.pop("supervised")
    names = ("on_finish", "on_give_up", "max_restarts", "max_hours", "max_cost")
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    if not wants:
        for name, value in given.items():
            require(has, _option(name), value, "with --supervise")
        return bool(has)
    if is_launched():
        raise ConfigError(
            "torchrun starts this training, so that --supervise would begin one rank again without "
            f"the others: supervise torchrun itself, by `serengeti-etl supervise --run {run} -- "
            "torchrun …`"
        )
    given |= {} if hourly_rate is None else {"hourly_rate": hourly_rate}
    given |= {name: options[name] for name in ("alert_level", "alert_quiet")}
    own = [word for name, value in given.items() for word in (_option(name), str(value))]
    own += [word for url in options["alerts"] for word in ("--alert", url)]
    child = [_SUPERVISED if word == "--supervise" else word for word in sys.argv[1:]]
    program = own_program()
    return _become([*program, "supervise", "--run", run, *own, "--", *program, *child])


def _become(command: list[str]) -> NoReturn:
    # Not as a part of this process: torch is loaded here, and a supervisor stays small.
    os.execvp(command[0], command)  # noqa: S606 - our own command line


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run_supervised(
    run: str,
    command: Sequence[str],
    settings: "SuperviseSettings",
    tell: "Callable[[Alert], object]",
) -> "Outcome":
    """What became of ``command``, whose run is at ``run``; signals are passed on to it."""
    from serengeti_etl.runs.child import Child
    from serengeti_etl.runs.look import Looker, look_anew, look_at
    from serengeti_etl.runs.supervise import Supervisor, World
    from serengeti_etl.storage import Store

    asked = threading.Event()
    stop_on_signals(asked.set, seconds=_SHORT_SECONDS)
    store = Store(url=run)
    looker = Looker(partial(look_at, store), _LOOK_SECONDS)
    outputs = (sys.stdout.buffer, sys.stderr.buffer)
    say = partial(click.echo, err=True)

    def say_and_tell(alert: "Alert") -> None:
        say(f"serengeti-etl: {alert.title}{alert.text and ': '}{alert.text}")
        tell(alert)

    world = World(
        start=lambda: Child(command, outputs),
        look=looker.latest,
        look_anew=partial(look_anew, store, _LOOK_SECONDS),
        wait=asked.wait,
        tell=say_and_tell,
    )
    return Supervisor(run, settings, world).supervise()


def _end(outcome: "Outcome", on_finish: str | None, on_give_up: str | None) -> int:
    from serengeti_etl.runs.supervise import Ending

    if outcome.ending is Ending.STOPPED:
        click.echo(f"serengeti-etl: to continue, run: {same_command()}", err=True)
        return INCOMPLETE
    is_done = outcome.ending is Ending.DONE
    hook = on_finish if is_done else on_give_up
    if hook is not None:
        reason = f"{outcome.ending.value}: {outcome.reason}" if outcome.reason else "done"
        said = f"{reason}\n".encode()
        ended = subprocess.run(hook, shell=True, input=said, check=False)  # noqa: S602 - the user's own
        if ended.returncode:
            click.echo(f"serengeti-etl: {hook!r} ended with {ended.returncode}", err=True)
    if is_done:
        return outcome.code
    return REFUSED if outcome.ending is Ending.REFUSED else INCOMPLETE
