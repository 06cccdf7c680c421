"""The command that makes reports again, and how other commands end with one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serengeti_etl.cli.options import debug_option, load_pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serengeti_etl.config import SeasonPipeline
    from serengeti_etl.convert.season import Conversion


@click.command()
@click.argument("url")
@click.option("--output", help="File or url of the page; by default it lies with what it is of.")
@click.option(
    "--pipeline",
    type=click.Path(path_type=Path),
    help="Pipeline file of a dataset: shows what is left of rejected photographs.",
)
@click.option("--dataset", help="Of a run, where the dataset is now that it was evaluated on.")
@click.option("--sites", help="CSV with the columns site, latitude and longitude, for a map.")
@debug_option
def report(  # noqa: PLR0913 - one parameter per option
    url: str,
    *,
    output: str | None,
    pipeline: Path | None,
    dataset: str | None,
    sites: str | None,
    debug: bool,  # noqa: ARG001 - debug is read by main
) -> None:
    """Make the report of the dataset or the evaluated run at URL again: one file of HTML."""
    from serengeti_etl.report.conversion import Making
    from serengeti_etl.report.write import is_dataset, report_dataset, report_evaluation

    if is_dataset(url):
        made_by = load_pipeline(pipeline, source=None, limit=None) if pipeline else None
        click.echo(f"report: {report_dataset(url, Making(pipeline=made_by), output)}")
        return
    places = None
    if sites is not None:
        from serengeti_etl.export import read_site_places

        places = read_site_places(sites)
    click.echo(f"report: {report_evaluation(url, dataset, places, output)}")


def report_conversions(
    pipeline: "SeasonPipeline", output: str, conversions: "Mapping[str, Conversion]"
) -> None:
    """End a conversion with a report in each dataset, or with a warning."""
    from serengeti_etl.report.conversion import Making
    from serengeti_etl.report.write import DATASET_REPORT, report_dataset
    from serengeti_etl.storage import Store

    def make(url: str, conversion: "Conversion") -> str | None:
        if not conversion.num_made and Store(url=url).exists(DATASET_REPORT):
            return None  # that of the run which made the shards says more
        making = Making(pipeline=pipeline, conversion=conversion, output=Store(url=output))
        return report_dataset(url, making)

    for url, conversion in conversions.items():
        _say(url, partial(make, url, conversion))


def report_run(run: str) -> None:
    """End an evaluation with a report in the run, or with a warning."""
    from serengeti_etl.report.write import report_evaluation

    _say(run, partial(report_evaluation, run))


def _say(url: str, make: Callable[[], str | None]) -> None:
    """Where the report is that was made; what it is of is finished, whatever goes wrong here."""
    from serengeti_etl.report.write import UNMADE

    try:
        where = make()
    except UNMADE as error:
        again = f"to try again, run: serengeti-etl report {url}"
        click.echo(f"serengeti-etl: no report was made: {error}; {again}", err=True)
        return
    if where is not None:
        click.echo(f"report: {where}")
