"""Commands over datasets: plan, make, show, prove and mend them."""

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from serengeti_etl.cli.alerting import alert_options, open_alerts
from serengeti_etl.cli.boards import CONVERSION_STALL_SECONDS, board_options, conversion_board
from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE, WITH_REJECTS
from serengeti_etl.cli.options import (
    cluster_option,
    debug_option,
    load_cluster,
    load_pipeline,
    pipeline_options,
)
from serengeti_etl.cli.progress import progress_line
from serengeti_etl.cli.report import report_conversions
from serengeti_etl.cli.stopping import works_long
from serengeti_etl.cli.supervision import self_supervise_options, take_supervision
from serengeti_etl.cli.telling import EndTold, alert_noted

if TYPE_CHECKING:
    from serengeti_etl.cluster import Runner
    from serengeti_etl.config import ClusterSpec, SeasonPipeline
    from serengeti_etl.convert.repair import Repair
    from serengeti_etl.convert.season import Conversion
    from serengeti_etl.convert.telling import BoardTeller
    from serengeti_etl.dataset.verify import Verification
    from serengeti_etl.runs.board import Board


@click.command()
@pipeline_options
@click.option("--output", help="Folder or url of a dataset, to see what would be added to it.")
@debug_option
def plan(
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> None:
    """Show what PIPELINE would do; nothing is written."""
    from serengeti_etl.convert.editions import Growth, plan_growth
    from serengeti_etl.convert.planned import plan_season
    from serengeti_etl.storage import Store
    from serengeti_etl.tables import growth_text, plan_text, sizes_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    with TemporaryDirectory() as scratch:
        growths: tuple[Growth, ...] = ()
        if output is None:
            season = plan_season(settings, Path(scratch))
        else:
            season, growths = plan_growth(settings, Store(url=output), Path(scratch))
    # All sizes have the same images in the same shards.
    first = next(iter(season.plans.values()))
    click.echo(plan_text(settings.name, season.labels.images, first), nl=False)
    if settings.sizes:
        click.echo(sizes_text(settings.by_folder(), season.plans), nl=False)
    click.echo(growth_text(growths), nl=False)


@click.command()
@works_long
@pipeline_options
@click.option("--output", required=True, help="Folder or url for the dataset.")
@cluster_option("local")
@click.option(
    "--retry-rejects",
    is_flag=True,
    help="Try rejected photographs of a finished dataset again, in shards of their own.",
)
@click.option(
    "--performance-report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write Dask's account of the run to a page of HTML.",
)
@board_options(CONVERSION_STALL_SECONDS)
@alert_options
@self_supervise_options
@debug_option
def convert(  # noqa: PLR0913 - one parameter per option
    pipeline: Path,
    *,
    source: str | None,
    limit: int | None,
    output: str,
    cluster: str,
    retry_rejects: bool,
    performance_report: Path | None,
    name: str | None,
    stall_after: float,
    hourly_rate: float | None,
    debug: bool,  # noqa: ARG001 - debug is read by main
    **told: Any,
) -> int:
    """Turn the photographs of PIPELINE into a dataset of tar shards, or add what is new to it."""
    from serengeti_etl.runs.find import RUN_FOLDER
    from serengeti_etl.storage import join_url
    from serengeti_etl.tables import conversion_text, conversions_text, retry_text

    is_supervised = take_supervision(join_url(output, RUN_FOLDER), told, hourly_rate)
    alerts = (told["alerts"], told["alert_level"], told["alert_quiet"])
    settings = load_pipeline(pipeline, source=source, limit=limit)
    where = load_cluster(cluster)
    known = name or settings.name
    with (
        conversion_board(output, known, stall_after, hourly_rate) as board,
        open_alerts(*alerts, alert_noted(board)) as opened,
        # Where there is a supervisor, that one tells of the end.
        nullcontext() if is_supervised else EndTold(opened, output, board.settings),
    ):
        conversions = run_conversion(
            settings, output, where, board, report=performance_report, retry_rejects=retry_rejects
        )
    if settings.sizes:
        click.echo(conversions_text(conversions), nl=False)
    else:
        click.echo(f"{conversion_text(conversions[output])}dataset: {output}")
    if retry_rejects:
        click.echo(retry_text(conversions.values()), nl=False)
    report_conversions(settings, output, conversions)
    has_rejects = any(one.ledger.num_rejected for one in conversions.values())
    return WITH_REJECTS if has_rejects else COMPLETE


@click.command()
@click.argument("url")
@debug_option
def info(url: str, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Show what the dataset at URL holds."""
    from serengeti_etl.dataset.index import open_dataset
    from serengeti_etl.tables import dataset_text

    click.echo(dataset_text(open_dataset(url)), nl=False)


@click.command()
@works_long
@click.argument("url")
@click.option("--sample", type=float, default=1.0, help="Read this share of the shards only, 0-1.")
@cluster_option("serial")
@debug_option
def verify(url: str, sample: float, cluster: str, debug: bool) -> int:  # noqa: ARG001, FBT001 - debug is read by main
    """Read the whole dataset at URL and report every disagreement in it."""
    found = run_verification(url, load_cluster(cluster), sample)
    say_verification(found)
    return INCOMPLETE if found.problems else COMPLETE


@click.command()
@works_long
@pipeline_options
@click.option("--output", required=True, help="Folder or url of the dataset; of one size.")
@cluster_option("local")
@debug_option
def repair(  # noqa: PLR0913 - one parameter per option
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str,
    cluster: str,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> int:
    """Make again exactly what is damaged or missing of the dataset that PIPELINE made."""
    from serengeti_etl.tables import repair_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    mended = run_repair(settings, output, load_cluster(cluster))
    click.echo(repair_text(mended), nl=False)
    return INCOMPLETE if mended.problems else COMPLETE


def run_conversion(  # noqa: PLR0913 - what the demo does not need has defaults
    pipeline: "SeasonPipeline",
    output: str,
    where: "str | ClusterSpec",
    board: "Board",
    *,
    report: Path | None = None,
    retry_rejects: bool = False,
) -> "dict[str, Conversion]":
    """Convert with a progress line and a board; the ``Conversion`` of each dataset by its url."""
    from serengeti_etl.cluster import open_runner, performance_report
    from serengeti_etl.convert.telling import BoardTeller
    from serengeti_etl.convert.versions import conversion_versions

    with open_runner(where, conversion_versions) as runner:
        if runner.dashboard is not None:
            click.echo(f"dashboard: {runner.dashboard}", err=True)
        with performance_report(runner, report):
            teller = BoardTeller(board)
            made = _convert_with_line(pipeline, runner, output, teller, retry_rejects=retry_rejects)
            teller.made(made)
            return made


def _convert_with_line(
    pipeline: "SeasonPipeline",
    runner: "Runner",
    output: str,
    teller: "BoardTeller",
    *,
    retry_rejects: bool,
) -> "dict[str, Conversion]":
    from serengeti_etl.convert.season import convert_season, convert_sizes
    from serengeti_etl.convert.tally import Progress
    from serengeti_etl.storage import join_url

    with progress_line(unit=" images", desc="convert") as line:
        totals = {"bytes": 0, "rejects": 0}

        def show(progress: Progress) -> None:
            teller.tell(progress)
            line.total = progress.num_planned
            line.initial += 0 if progress.is_new else progress.num_images
            totals["bytes"] += progress.num_source_bytes
            totals["rejects"] += progress.num_rejected
            seconds = max(line.format_dict["elapsed"], 1e-9)
            rate = totals["bytes"] / 1e6 / seconds
            line.set_postfix_str(f"{rate:.1f} MB/s, {totals['rejects']} rejected", refresh=False)
            line.update(progress.num_images)

        more: dict[str, Any] = {"retry_rejects": retry_rejects, "on_held": teller.held}
        if not pipeline.sizes:
            return {output: convert_season(pipeline, runner, output, show, **more)}
        by_size = convert_sizes(pipeline, runner, output, show, **more)
        return {join_url(output, size): conversion for size, conversion in by_size.items()}


def run_verification(url: str, where: "str | ClusterSpec", share: float = 1.0) -> "Verification":
    """Verify with a progress line; the ``Verification``."""
    from serengeti_etl.cluster import open_runner
    from serengeti_etl.dataset.verify import verify_dataset
    from serengeti_etl.versions import code_versions

    with (
        open_runner(where, code_versions) as runner,
        progress_line(unit=" shards", desc="verify") as line,
    ):
        return verify_dataset(url, runner, lambda _shard: line.update(), share)


def run_repair(pipeline: "SeasonPipeline", output: str, where: "str | ClusterSpec") -> "Repair":
    """Repair with a progress line of the shards examined; the ``Repair``."""
    from serengeti_etl.cluster import open_runner
    from serengeti_etl.convert.repair import pipeline_of, repair_dataset
    from serengeti_etl.convert.versions import conversion_versions

    with (
        open_runner(where, conversion_versions) as runner,
        progress_line(unit=" shards", desc="examine") as line,
    ):
        one_size = pipeline_of(pipeline, output)
        return repair_dataset(one_size, runner, output, lambda _shard: line.update())


def say_verification(found: "Verification") -> None:
    """Say each problem that was found, and how much was read."""
    from serengeti_etl.tables import megabytes

    for problem in found.problems:
        click.echo(problem.message)
    shards = f"{found.num_shards} shards"
    if found.num_shards < found.num_shards_in_all:
        share = found.num_shards / found.num_shards_in_all
        shards = f"{found.num_shards} of {found.num_shards_in_all} shards ({share:.1%}) read"
    size = f"{shards}, {found.num_samples:,} samples, {megabytes(found.num_bytes)}"
    if found.problems:
        click.echo(f"{len(found.problems)} problems in {size}")
    else:
        click.echo(f"whole: {size}; tars, index, rejects, checksums and ledger agree")
