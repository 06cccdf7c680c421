"""The command that keeps a run going, and what ``--supervise`` of others makes of it."""

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
from serengeti_etl.cli.own_command import is_same_place, run_of
from serengeti_etl.cli.stopping import stop_on_signals
from serengeti_etl.errors import ConfigError, require

if TYPE_CHECKING:
    from serengeti_etl.runs.alert import Alert
    from serengeti_etl.runs.supervise import Outcome
    from serengeti_etl.runs.supervise_settings import SuperviseSettings

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_LOOK_SECONDS = 5.0
_SUPERVISED = "--supervised"
_POSITIVE = click.FloatRange(min=0, min_open=True)

_START_MINUTES = 30.0
"""For one of our own to write its status. A start may wait a quarter of an hour for a store that is
away, then read an index of millions of rows, weights and a checkpoint."""

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
        click.option(
            "--start-within",
            type=_POSITIVE,
            metavar="MINUTES",
            help="What has written no status by then hangs, and is begun again. Imports, index "
            f"and checkpoint take their time: {_START_MINUTES:.0f} for train and convert. Other "
            "commands may never write one: no limit by default.",
        ),
        click.option("--max-restarts", type=click.IntRange(min=0), help="In vain; 10 by default."),
        click.option(
            "--max-hours", type=_POSITIVE, help="Of the whole run; then it saves and ends."
        ),
        click.option("--max-cost", type=_POSITIVE, help="Likewise; needs --hourly-rate."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.option(
    "--run",
    help="Folder or url of the command's status.json; train and convert say it themselves.",
)
@supervise_options
@click.option("--hourly-rate", type=_POSITIVE, help="Price of an hour of the machines.")
@alert_options
@debug_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def supervise(  # noqa: PLR0913 - one parameter per option
    *,
    run: str | None,
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
    serengeti-etl supervise -- serengeti-etl train URL --run RUN
    serengeti-etl supervise -- torchrun --nproc-per-node 8 -m serengeti_etl -- train …
    serengeti-etl supervise --run RUN -- srun … serengeti-etl train URL --run RUN

    It is begun again after exit code 3, death by a signal, and any other but 0 and 2 (done) and 4
    (refused). SIGTERM and Ctrl-C let it save; then this exits with 3.
    """  # noqa: D301 - click's own mark
    from serengeti_etl.runs.supervise_settings import SuperviseSettings

    place, minutes = _place_and_minutes(run, command, limits.pop("start_within"))
    given = {name: value for name, value in limits.items() if value is not None}
    seconds = None if minutes is None else 60 * minutes
    settings = SuperviseSettings(start_seconds=seconds, **given)
    with open_alerts(alerts, alert_level, alert_quiet) as opened:
        outcome = run_supervised(place, command, settings, opened.send)
    # The alerts have gone out: the hook may shut the machine down.
    return _end(outcome, on_finish, on_give_up)


def _place_and_minutes(
    run: str | None, command: Sequence[str], minutes: float | None
) -> tuple[str, float | None]:
    """Where the run of ``command`` lies, and how long it may take to write there."""
    own = run_of(command)
    if own is None:
        if run is None:
            raise click.UsageError("Give --run: where does COMMAND write its status.json?")
        return run, minutes
    if run is not None and not is_same_place(run, own):
        raise ConfigError(
            f"--run is {run!r}, but the command writes its run to {own}: leave it out"
        )
    return run or own, _START_MINUTES if minutes is None else minutes


def self_supervise_options(command: CommandT) -> CommandT:
    """``command`` with ``--supervise``, and what a supervisor may be told."""
    options = (
        click.option(
            "--supervise",
            is_flag=True,
            help="Begin it again when it dies or hangs; it goes on from what it has saved.",
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
        run: that this command writes.
        options: of this command, which are then without these.
        hourly_rate: of this command.

    Raises:
        ConfigError: there is no supervisor for what was told one.
    """
    wants, has = options.pop("supervise"), options.pop("supervised")
    names = ("on_finish", "on_give_up", "start_within", "max_restarts", "max_hours", "max_cost")
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    if not wants:
        for name, value in given.items():
            require(has, _option(name), value, "with --supervise")
        return bool(has)
    given.setdefault("start_within", _START_MINUTES)
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
    from serengeti_etl.daemon_pool import DaemonPool
    from serengeti_etl.runs.child import Child
    from serengeti_etl.runs.look import Looker, look_anew, look_at
    from serengeti_etl.runs.supervise import Supervisor, World
    from serengeti_etl.storage import Store

    asked = threading.Event()
    stop_on_signals(asked.set, seconds=_SHORT_SECONDS)
    store = Store(url=run)
    look, pool = partial(look_at, store), DaemonPool(1, "look at the run")
    outputs = (sys.stdout.buffer, sys.stderr.buffer)
    say = partial(click.echo, err=True)

    def say_and_tell(alert: "Alert") -> None:
        say(f"serengeti-etl: {alert.title}{alert.text and ': '}{alert.text}")
        tell(alert)

    world = World(
        start=lambda: Child(command, outputs),
        watch=lambda: Looker(look, _LOOK_SECONDS, pool).latest,
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
