"""The command line as a whole: every command, and what a process ends with.

Exit codes: 0 complete; 2 complete, with rejects within the budget; 3 incomplete, run it again;
4 refused, something must be changed first.
"""

import faulthandler
import sys

import click

from serengeti_etl.cli.alerting import alert
from serengeti_etl.cli.browse import browse
from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE, REFUSED, leave, say_error, say_interrupted
from serengeti_etl.cli.conversion import convert, info, plan, repair, verify
from serengeti_etl.cli.demo import demo
from serengeti_etl.cli.inference import export_model, predict, submit
from serengeti_etl.cli.labels import catalog, export
from serengeti_etl.cli.report import report
from serengeti_etl.cli.supervision import supervise
from serengeti_etl.cli.training import evaluate, train
from serengeti_etl.cli.watching import watch
from serengeti_etl.errors import SerengetiError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="serengeti-etl")
def commands() -> None:
    """Camera-trap photographs: from a bucket to resized shards to a trained model."""


for _command in (
    alert,
    browse,
    catalog,
    convert,
    demo,
    evaluate,
    export,
    export_model,
    info,
    plan,
    predict,
    repair,
    report,
    submit,
    supervise,
    train,
    verify,
    watch,
):
    commands.add_command(_command)


def main() -> None:
    """Run the command line and exit with one of its codes."""
    arguments = sys.argv[1:]
    # A process that a supervisor ends because it hangs says where; so does one that crashes.
    faulthandler.enable()
    try:
        code = commands.main(arguments, prog_name="serengeti-etl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = REFUSED
    except (click.Abort, KeyboardInterrupt):
        code = say_interrupted()
    except (SerengetiError, OSError) as error:
        code = say_error(error, debug="--debug" in arguments)
    if code in (INCOMPLETE, REFUSED):
        leave(code)
    sys.exit(code if isinstance(code, int) else COMPLETE)
