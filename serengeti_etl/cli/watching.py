"""The command that watches runs from elsewhere."""

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import click

from serengeti_etl.cli.alerting import alert_options, open_alerts
from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE
from serengeti_etl.cli.options import debug_option
from serengeti_etl.cli.serving import page_options, web_settings, where_shown
from serengeti_etl.cli.stopping import works_long

if TYPE_CHECKING:
    from serengeti_etl.runs.alerts import Alerts
    from serengeti_etl.runs.watch import Watch
    from serengeti_etl.web.guard import WebSettings

_STEP_SECONDS = 0.5
_ONCE_SECONDS = 120.0
"""Longest that ``--once`` takes to make up its mind."""


@click.command()
@works_long
@click.argument("urls", nargs=-1, required=True, metavar="URL…")
@click.option(
    "--every",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks at each run.",
)
@click.option("--once", is_flag=True, help="Print a table and exit: with 3 if any is in trouble.")
@click.option("--no-serve", is_flag=True, help="Only look and send alerts, without pages.")
@page_options("127.0.0.1:8765")
@alert_options
@debug_option
def watch(  # noqa: PLR0913 - one parameter per option
    urls: tuple[str, ...],
    *,
    every: float,
    once: bool,
    no_serve: bool,
    address: str,
    token: str | None,
    host_names: tuple[str, ...],
    alerts: tuple[str, ...],
    alert_level: str,
    alert_quiet: float,
    debug: bool,  # noqa: ARG001 - debug is read by main
) -> int:
    """Show the runs at URL or one level below it, and tell when one stalls, is lost, fails or ends.

    URL is a folder or bucket prefix: a run, a dataset whose conversion runs, or a folder of either.
    A run is LOST when it has been seen not to write for its lost_after_seconds; its clock and this
    one may differ.
    """
    from serengeti_etl.runs.watch import Watch, WatchSettings

    with open_alerts(alerts, alert_level, alert_quiet) as opened:
        if once:
            return _look_once(Watch(urls, WatchSettings(every_seconds=min(every, 5.0))), opened)
        watching = Watch(urls, WatchSettings(every_seconds=every), opened.send)
        if no_serve:
            _keep_looking(watching)
        else:
            _serve(watching, web_settings(address, token, host_names))
    return COMPLETE


def _look_once(watching: "Watch", alerts: "Alerts") -> int:
    """Print what is seen, as soon as it is sure."""
    from serengeti_etl.run_tables import runs_text
    from serengeti_etl.runs.alert import Alert, Level

    end = time.monotonic() + _ONCE_SECONDS
    watching.step()
    while not watching.is_settled and time.monotonic() < end:
        time.sleep(0.1)
        watching.step()
    runs, faults = watching.runs, watching.faults
    click.echo(runs_text(runs), nl=False)
    for url, fault in faults.items():
        click.echo(f"{url} cannot be searched: {fault}")
    if not runs and not faults:
        click.echo("no run has said anything there yet")
    for run in runs:
        if run.is_trouble and run.sight.state is not None:
            title = f"{run.title}: {run.sight.state}"
            kind = run.sight.state.lower()
            alerts.send(Alert(kind=kind, run=run.store.url, title=title, level=Level.CRITICAL))
    is_trouble = not runs or bool(faults) or any(run.is_trouble for run in runs)
    return INCOMPLETE if is_trouble else COMPLETE


def _keep_looking(watching: "Watch", until: threading.Event | None = None) -> None:
    until = until or threading.Event()
    with contextlib.suppress(KeyboardInterrupt):
        while not until.wait(_STEP_SECONDS):
            watching.step()


def _serve(watching: "Watch", settings: "WebSettings") -> None:
    from serengeti_etl.watch.pages import routes
    from serengeti_etl.web.server import WebServer

    with WebServer(routes(watching), settings) as server:
        click.echo(f"runs: {where_shown(server, settings)}")
        _keep_looking(watching)
