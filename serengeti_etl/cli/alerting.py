"""Options that say where alerts go, and the command that tries them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE, REFUSED
from serengeti_etl.cli.options import debug_option

if TYPE_CHECKING:
    from serengeti_etl.runs.alerts import Alerts

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_FORMS = (
    "ntfy+https://HOST/TOPIC or https://ntfy.sh/TOPIC, webhook+https://HOST/PATH, a url of "
    "apprise, or @FILE with such urls, which keeps secrets out of the process list; repeatable."
)


def alert_options(command: CommandT) -> CommandT:
    """``command`` with ``--alert`` and how much is sent; `click` wants the last one first."""
    options = (
        click.option("--alert", "alerts", multiple=True, metavar="URL", help=f"Tell: {_FORMS}"),
        click.option(
            "--alert-level",
            type=click.Choice(["info", "warning", "critical"]),
            default="info",
            show_default=True,
            help="Send nothing that matters less.",
        ),
        click.option(
            "--alert-quiet",
            type=click.FloatRange(min=0),
            default=10.0,
            show_default=True,
            metavar="MINUTES",
            help="Between two alerts of one kind of one run; those held back are counted.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def open_alerts(
    urls: Sequence[str],
    level: str,
    quiet_minutes: float,
    note: Callable[[str], object] = lambda _: None,
) -> "Alerts":
    """What sends to ``urls``, to be entered.

    Args:
        urls: of ``--alert``.
        level: the least.
        quiet_minutes: between two of a kind.
        note: gets a line, without secrets, of each that failed; stderr gets it too.
    """
    from serengeti_etl.runs.alert import Level
    from serengeti_etl.runs.alerts import Alerts, AlertSettings
    from serengeti_etl.runs.channels import open_channels

    settings = AlertSettings(least_level=Level(level), quiet_seconds=60 * quiet_minutes)

    def say(text: str) -> None:
        click.echo(f"serengeti-etl: {text}", err=True)
        note(text)

    return Alerts(open_channels(urls), settings, say)


@click.command()
@click.option(
    "--test", "is_test", is_flag=True, required=True, help="Send one, and say what came of it."
)
@click.option("--alert", "alerts", multiple=True, required=True, metavar="URL", help=_FORMS)
@debug_option
def alert(*, is_test: bool, alerts: tuple[str, ...], debug: bool) -> int:  # noqa: ARG001 - debug is read by main
    """Try the urls that other commands are to send alerts to.

    Exits with 0 if all took it, 4 if one refused it, 3 if one did not answer well.
    """
    from serengeti_etl.runs.alert import Alert, SendError
    from serengeti_etl.runs.channels import open_channels

    text = "If you read this, alerts of serengeti-etl get through."
    one = Alert(kind="test", run="test", title="serengeti-etl: a test", text=text)
    code = COMPLETE
    for channel in open_channels(alerts):
        try:
            channel.send(one)
        except SendError as error:
            click.echo(f"{channel.name}: not sent: {error}")
            code = max(code, INCOMPLETE if error.may_pass else REFUSED)
        else:
            click.echo(f"{channel.name}: sent")
    return code
