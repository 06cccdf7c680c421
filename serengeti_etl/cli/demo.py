"""The command that shows it all on a drawn season."""

import time
from pathlib import Path

import click

from serengeti_etl.cli.boards import conversion_board, training_board
from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE
from serengeti_etl.cli.conversion import run_conversion, run_verification, say_verification
from serengeti_etl.cli.options import cluster_option, debug_option, load_cluster, need_training
from serengeti_etl.cli.report import report_conversions, report_run
from serengeti_etl.cli.stopping import works_long
from serengeti_etl.cli.training import run_evaluation, run_training


@click.command()
@works_long
@click.option("--output", default="serengeti-demo", show_default=True, help="Local folder.")
@cluster_option("local")
@debug_option
def demo(output: str, cluster: str, debug: bool) -> int:  # noqa: ARG001, FBT001 - debug is read by main
    """Draw a small season, convert it, verify it, train on it and score the model."""
    from serengeti_etl.demo import demo_pipeline, demo_recipe, draw_once
    from serengeti_etl.evaluation_tables import evaluation_text
    from serengeti_etl.sample import SampleSettings
    from serengeti_etl.tables import conversion_text

    need_training()
    from serengeti_etl.train.settings import TrainSettings

    season, dataset, run = (f"{output}/{name}" for name in ("season", "dataset", "run"))
    clock = _Clock()
    drawn = draw_once(Path(season), SampleSettings())
    clock.lap("1/5 draw", f"{season} {'drawn' if drawn else 'was there'}")
    pipeline = demo_pipeline(season)
    with conversion_board(dataset, name="demo") as board:
        conversions = run_conversion(pipeline, dataset, load_cluster(cluster), board)
    clock.lap("2/5 convert", dataset)
    found = run_verification(dataset, "serial")
    clock.lap("3/5 verify", f"{len(found.problems)} problems")
    with training_board(run, name="demo") as board:
        run_training(dataset, run, demo_recipe(), TrainSettings(device="cpu"), board=board)
    clock.lap("4/5 train", run)
    evaluation = run_evaluation(run, dataset, "val", "cpu")
    clock.lap("5/5 evaluate", f"{run}/evaluation.json")
    click.echo(f"\n{conversion_text(conversions[dataset])}\n{evaluation_text(evaluation)}")
    say_verification(found)
    report_conversions(pipeline, dataset, conversions)
    report_run(run)
    click.echo(_next_steps(output))
    return INCOMPLETE if found.problems else COMPLETE


class _Clock:
    """Tells how long each stage of the demo took."""

    def __init__(self) -> None:
        self.started = time.perf_counter()

    def lap(self, stage: str, what: str) -> None:
        now = time.perf_counter()
        click.echo(f"{stage:<13}{now - self.started:6.1f} s  {what}")
        self.started = now


def _next_steps(output: str) -> str:
    return (
        f"photographs and labels: {output}/season\n"
        f"dataset:                {output}/dataset\n"
        f"model and metrics:      {output}/run\n"
        f"how the run went:       {output}/run/index.html, as a phone would have seen it\n"
        f"look at the photographs: serengeti-etl browse {output}/dataset --predictions "
        f"{output}/run/predictions-images.parquet\n"
        "next: copy pipelines/lila_serengeti.py, say where your photographs lie, and run\n"
        "      serengeti-etl plan YOURS.py; serengeti-etl convert YOURS.py --output s3://…"
    )
