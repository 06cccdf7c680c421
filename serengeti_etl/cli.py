"""The command line; the only module that prints. Each command imports what it needs when run.

Exit codes: 0 complete; 2 complete, with rejects within the budget; 3 incomplete, run it again;
4 refused, something must be changed first.
"""

import contextlib
import dataclasses
import functools
import os
import runpy
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import click

from serengeti_etl.errors import ConfigError, Incomplete, SerengetiError

if TYPE_CHECKING:
    from serengeti_etl.cluster import Runner
    from serengeti_etl.config import ClusterSpec, SeasonPipeline
    from serengeti_etl.convert.repair import Repair
    from serengeti_etl.convert.season import Conversion
    from serengeti_etl.dataset.verify import Verification
    from serengeti_etl.evaluate import Evaluation
    from serengeti_etl.predict.photographs import Source
    from serengeti_etl.predict.run import PredictionReport, PredictSettings
    from serengeti_etl.train.recipe import Recipe
    from serengeti_etl.train.settings import TrainResult, TrainSettings

COMPLETE, WITH_REJECTS, INCOMPLETE, REFUSED = 0, 2, 3, 4

STOP_SECONDS = 8.0
"""After a signal, the time to put things in order; then the process ends as things are."""

SAVE_SECONDS = 25.0
"""The same for a training: to finish a step and save it. Clouds take a machine away after 30."""

CommandT = TypeVar("CommandT", bound=Callable[..., Any])


def main() -> None:
    """Run the command line and exit with one of its codes."""
    arguments = sys.argv[1:]
    try:
        code = commands.main(arguments, prog_name="serengeti-etl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = REFUSED
    except (click.Abort, KeyboardInterrupt):
        code = _say_interrupted()
    except (SerengetiError, OSError) as error:
        code = _say_error(error, debug="--debug" in arguments)
    if code in (INCOMPLETE, REFUSED):
        _leave(code)
    sys.exit(code if isinstance(code, int) else COMPLETE)


def _leave(code: int) -> NoReturn:
    """End the process now, whatever its threads do; all that matters has been put away."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    # Requests cannot be called back, and Python waits at its end for the threads that made them,
    # such as the loader's: for minutes, where they ask a dead store.
    os._exit(code)


def _say_error(error: SerengetiError | OSError, *, debug: bool) -> int:
    from serengeti_etl.retry import is_transient

    if debug:
        traceback.print_exception(error)
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    click.echo(f"serengeti-etl: {error}{notes}", err=True)
    # A full disk or a store that is away may pass, not what is refused or never there.
    return INCOMPLETE if isinstance(error, Incomplete) or is_transient(error) else REFUSED


def _say_interrupted() -> int:
    click.echo(f"serengeti-etl: interrupted; to continue, run: {_same_command()}", err=True)
    return INCOMPLETE


def _same_command() -> str:
    """This command, for a shell."""
    program = sys.argv[:1]
    if Path(program[0]).name == "__main__.py":
        program = [sys.executable, "-m", "serengeti_etl"]
    return shlex.join([*program, *sys.argv[1:]])


def _same_torchrun(num_ranks: int) -> str:
    """This command on as many ranks; without the dashes torchrun takes ``--run`` for its own."""
    start = ["torchrun", "--nproc-per-node", str(num_ranks), "-m", "serengeti_etl", "--"]
    return shlex.join([*start, *sys.argv[1:]])


def _works_long(command: CommandT) -> CommandT:
    """``command``; SIGTERM interrupts it as Ctrl-C does, and either ends it within STOP_SECONDS."""

    @functools.wraps(command)
    def stoppable(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            _stop_on_signals()
        return command(*args, **kwargs)

    return cast("CommandT", stoppable)


def _raise_interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _stop_on_signals(
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
    _leave(_say_interrupted())


def _interrupt(ask: Callable[[], object], _number: int, _frame: object) -> None:
    """Ask the main thread to stop; once, so that it is not interrupted while it tidies up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # of what is ignored `_enforce` would not hear
    ask()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="serengeti-etl")
def commands() -> None:
    """Camera-trap photographs: from a bucket to resized shards to a trained model."""


def _debug(command: CommandT) -> CommandT:
    return click.option("--debug", is_flag=True, help="Show the whole traceback.")(command)


def _pipeline_options(command: CommandT) -> CommandT:
    command = click.option("--limit", type=int, help="Take only this many sequences.")(command)
    command = click.option("--source", help="Where labels and images lie instead.")(command)
    return click.argument("pipeline", type=click.Path(path_type=Path))(command)


def _cluster_option(default: str) -> Callable[[CommandT], CommandT]:
    return click.option(
        "--cluster",
        default=default,
        show_default=True,
        help="serial, local, the address of a scheduler, or a Python file with a ClusterSpec.",
    )


_PLACE_OPTIONS = (
    click.option(
        "--utc-offset", default="+03:00", show_default=True, help="Of the cameras' clocks."
    ),
    click.option("--latitude", type=float, help="Of sites that --sites lacks, in degrees."),
    click.option("--longitude", type=float, help="Likewise."),
    click.option("--sites", help="CSV with the columns site, latitude and longitude."),
    click.option("--contributor", default="unknown", show_default=True, help="Who made the data."),
    click.option(
        "--sampling-design",
        default="opportunistic",
        show_default=True,
        help="How sites were chosen, in the words of Camtrap DP.",
    ),
)


def _place_options(command: CommandT) -> CommandT:
    """What Camtrap DP demands and nobody else; `click` wants the last one first."""
    for option in reversed(_PLACE_OPTIONS):
        command = option(command)
    return command


@commands.command()
@_pipeline_options
@_debug
def plan(pipeline: Path, source: str | None, limit: int | None, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Show what PIPELINE would do; nothing is written."""
    from serengeti_etl.convert.planned import plan_season
    from serengeti_etl.tables import plan_text, sizes_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    with TemporaryDirectory() as scratch:
        season = plan_season(settings, Path(scratch))
    # All sizes have the same images in the same shards.
    first = next(iter(season.plans.values()))
    click.echo(plan_text(settings.name, season.labels.images, first), nl=False)
    if settings.sizes:
        click.echo(sizes_text(settings.by_folder(), season.plans), nl=False)


@commands.command()
@_works_long
@_pipeline_options
@click.option("--output", help="Folder or url for the tables; by default NAME-catalog here.")
@click.option("--schemas", help="Folder or url of Camtrap DP's table schemas.")
@_debug
def catalog(  # noqa: PLR0913 - one parameter per option
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str | None,
    schemas: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> None:
    """Show what PIPELINE's label file holds, what is odd in it, and how it splits."""
    from serengeti_etl.label_catalog import make_label_catalog
    from serengeti_etl.label_tables import catalog_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    where = output or f"{settings.name}-catalog"
    made = make_label_catalog(settings, where, schemas)
    click.echo(catalog_text(settings.name, made.labels, made.selection), nl=False)
    splits = ", splits.json" if made.refusal is None else ""
    click.echo(f"written: {where}/catalog.parquet, annotations.parquet{splits}")
    if made.refusal is not None:
        raise made.refusal


@commands.command()
@click.argument("url")
@click.option("--format", "kind", type=click.Choice(["coco", "camtrap_dp"]), required=True)
@click.option("--output", required=True, help="Folder or url for what is written.")
@click.option("--split", help="Only the images of this split.")
@_place_options
@_debug
def export(
    url: str,
    kind: str,
    output: str,
    split: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
    **place: Any,
) -> None:
    """Write the labels of the dataset or catalog at URL for others to read."""
    from serengeti_etl.export import exported_labels, write_labels

    labels = exported_labels(url, split)
    click.echo(write_labels(labels, kind, output, place))


@commands.command()
@_works_long
@_pipeline_options
@click.option("--output", required=True, help="Folder or url for the dataset.")
@_cluster_option("local")
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
@_debug
def convert(  # noqa: PLR0913, PLR0917 - one parameter per option
    pipeline: Path,
    source: str | None,
    limit: int | None,
    output: str,
    cluster: str,
    retry_rejects: bool,  # noqa: FBT001 - as click hands it over
    performance_report: Path | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
) -> int:
    """Turn the photographs of PIPELINE into a dataset of tar shards, or add what is new to it."""
    from serengeti_etl.tables import conversion_text, conversions_text, retry_text

    settings = load_pipeline(pipeline, source=source, limit=limit)
    where = load_cluster(cluster)
    conversions = run_conversion(
        settings, output, where, performance_report, retry_rejects=retry_rejects
    )
    if settings.sizes:
        click.echo(conversions_text(conversions), nl=False)
    else:
        click.echo(f"{conversion_text(conversions[output])}dataset: {output}")
    if retry_rejects:
        click.echo(retry_text(conversions.values()), nl=False)
    has_rejects = any(one.ledger.num_rejected for one in conversions.values())
    return WITH_REJECTS if has_rejects else COMPLETE


@commands.command()
@click.argument("url")
@_debug
def info(url: str, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Show what the dataset at URL holds."""
    from serengeti_etl.dataset.index import open_dataset
    from serengeti_etl.tables import dataset_text

    click.echo(dataset_text(open_dataset(url)), nl=False)


@commands.command()
@_works_long
@click.argument("url")
@click.option("--sample", type=float, default=1.0, help="Read this share of the shards only, 0-1.")
@_cluster_option("serial")
@_debug
def verify(url: str, sample: float, cluster: str, debug: bool) -> int:  # noqa: ARG001, FBT001 - debug is read by main
    """Read the whole dataset at URL and report every disagreement in it."""
    found = run_verification(url, load_cluster(cluster), sample)
    _say_verification(found)
    return INCOMPLETE if found.problems else COMPLETE


@commands.command()
@_works_long
@_pipeline_options
@click.option("--output", required=True, help="Folder or url of the dataset; of one size.")
@_cluster_option("local")
@_debug
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


@commands.command()
@_works_long
@click.argument("url")
@click.option("--run", required=True, help="Folder or url for checkpoints, metrics and the model.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Python file with a Recipe.")
@click.option("--weights", help="Pre-trained weights instead: a path, url or published name.")
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@click.option("--accumulate", default=1, show_default=True, help="Parts of a step; saves memory.")
@click.option("--checkpoint-every", default=500, show_default=True, metavar="STEPS")
@click.option("--scratch", help="Local folder for copies of checkpoints, written first.")
@click.option("--compile", is_flag=True, help="Let torch compile the network.")
@_debug
def train(
    url: str,
    run: str,
    recipe: Path | None,
    weights: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
    **where: Any,
) -> int:
    """Train a network off the dataset at URL; the same command continues a stopped run.

    Several GPUs together: torchrun --nproc-per-node 8 -m serengeti_etl -- train URL --run RUN
    """
    _need_training()
    from serengeti_etl.train.ranks import open_ranks
    from serengeti_etl.train.recipe import Recipe
    from serengeti_etl.train.settings import TrainSettings

    settings: Recipe = _load_named(recipe, "recipe", Recipe) if recipe else Recipe()
    if weights is not None:
        settings = dataclasses.replace(settings, weights=weights)
    places = TrainSettings(**where)
    with open_ranks(places.torch_device) as ranks:
        is_alone, is_first = ranks.world_size == 1, ranks.is_first
        asked = threading.Event()
        # torchrun hands each signal on to processes that may have had it already.
        _stop_on_signals(asked.set, seconds=SAVE_SECONDS, again=is_alone)
        try:
            run_training(url, run, settings, places, should_stop=asked.is_set, tells=is_first)
        except Incomplete as error:
            if is_first:
                again = _same_command() if is_alone else _same_torchrun(ranks.world_size)
                click.echo(f"serengeti-etl: {error}; to continue, run: {again}", err=True)
            return INCOMPLETE
    if is_first:
        click.echo(f"run: {run}\nnext: serengeti-etl evaluate {run} --dataset {url}")
    return COMPLETE


@commands.command()
@_works_long
@click.argument("run")
@click.option("--dataset", required=True, help="Folder or url of a dataset.")
@click.option("--split", default="val", show_default=True)
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@click.option("--mirror", is_flag=True, help="Predict mirror images too, and take the mean.")
@click.option("--blank-threshold", type=float, help="Call empty from this probability.")
@_debug
def evaluate(  # noqa: PLR0913 - one parameter per option
    run: str,
    *,
    dataset: str,
    split: str,
    device: str,
    mirror: bool,
    blank_threshold: float | None,
    debug: bool,  # noqa: ARG001 - debug is read by main
) -> None:
    """Score the finished training RUN by sequences, as the competition does."""
    from serengeti_etl.evaluation_tables import evaluation_text

    more = {"with_mirror": mirror, "blank_threshold": blank_threshold}
    click.echo(evaluation_text(run_evaluation(run, dataset, split, device, **more)), nl=False)


@commands.command()
@_works_long
@click.argument("model")
@click.option("--photographs", required=True, help="Folder or url, or a .txt, .csv, .parquet list.")
@click.option("--source", help="Where the names in a list lie, if not beside it.")
@click.option("--output", required=True, help="File or url of the results; or a folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet", "megadetector", "camtrap_dp"]),
    help="By default told by the suffix of --output: .csv, .parquet, .json (MegaDetector's).",
)
@click.option("--sequences", help="File for a table of sequences, .csv or .parquet.")
@click.option(
    "--gap",
    "gap_seconds",
    default=5.0,
    show_default=True,
    help="Where a list names no sequences: photographs of one site, or else one folder, that "
    "follow each other within so many seconds by their Exif time are one.",
)
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@_place_options
@_debug
def predict(
    model: str,
    photographs: str,
    source: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
    **settings: Any,
) -> int:
    """Predict photographs with MODEL: a finished run, one of its .pt files, or a model folder."""
    _need_training()
    from serengeti_etl.predict.photographs import Source
    from serengeti_etl.predict.run import PredictSettings
    from serengeti_etl.predict.text import prediction_text

    own = ("output", "kind", "sequences", "gap_seconds", "device")
    wanted = PredictSettings(**{name: settings.pop(name) for name in own}, place=settings)
    report = run_prediction(model, Source(url=photographs, folder=source), wanted)
    click.echo(prediction_text(report), nl=False)
    click.echo(f"written: {wanted.output}")
    return WITH_REJECTS if report.failures else COMPLETE


@commands.command()
@_works_long
@click.argument("model")
@click.option("--output", default="submission.zip", show_default=True, help="Path or url.")
@_debug
def submit(model: str, output: str, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Pack MODEL with the code that runs it as a submission to Hakuna Ma-data."""
    _need_training()
    from serengeti_etl.submit.package import write_submission

    sizes = write_submission(model, output)
    click.echo(f"written: {output}, {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB")


@commands.command("export-model")
@_works_long
@click.argument("model")
@click.option("--output", required=True, help="Folder or url.")
@click.option("--onnx", is_flag=True, help="With model.onnx; needs the extra [onnx].")
@_debug
def export_model(model: str, output: str, onnx: bool, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Write MODEL as a plain folder: safetensors, torch.export, config and model card."""
    _need_training()
    from serengeti_etl.submit.model_folder import write_model_folder

    click.echo(f"written: {output}/{', '.join(write_model_folder(model, output, with_onnx=onnx))}")


@commands.command()
@_works_long
@click.option("--output", default="serengeti-demo", show_default=True, help="Local folder.")
@_cluster_option("local")
@_debug
def demo(output: str, cluster: str, debug: bool) -> int:  # noqa: ARG001, FBT001 - debug is read by main
    """Draw a small season, convert it, verify it, train on it and score the model."""
    from serengeti_etl.demo import demo_pipeline, demo_recipe, draw_once
    from serengeti_etl.evaluation_tables import evaluation_text
    from serengeti_etl.sample import SampleSettings
    from serengeti_etl.tables import conversion_text

    _need_training()
    from serengeti_etl.train.settings import TrainSettings

    season, dataset, run = (f"{output}/{name}" for name in ("season", "dataset", "run"))
    clock = _Clock()
    drawn = draw_once(Path(season), SampleSettings())
    clock.lap("1/5 draw", f"{season} {'drawn' if drawn else 'was there'}")
    conversions = run_conversion(demo_pipeline(season), dataset, load_cluster(cluster))
    clock.lap("2/5 convert", dataset)
    found = run_verification(dataset, "serial")
    clock.lap("3/5 verify", f"{len(found.problems)} problems")
    run_training(dataset, run, demo_recipe(), TrainSettings(device="cpu"))
    clock.lap("4/5 train", run)
    evaluation = run_evaluation(run, dataset, "val", "cpu")
    clock.lap("5/5 evaluate", f"{run}/evaluation.json")
    click.echo(f"\n{conversion_text(conversions[dataset])}\n{evaluation_text(evaluation)}")
    _say_verification(found)
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
        "next: copy pipelines/lila_serengeti.py, say where your photographs lie, and run\n"
        "      serengeti-etl plan YOURS.py; serengeti-etl convert YOURS.py --output s3://…"
    )


def _say_verification(found: "Verification") -> None:
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


def load_pipeline(path: Path, *, source: str | None, limit: int | None) -> "SeasonPipeline":
    """The ``pipeline`` of a pipeline file, with what the command line sets.

    Raises:
        ConfigError: the file is missing, or defines none.
    """
    from serengeti_etl.config import SeasonPipeline

    pipeline: SeasonPipeline = _load_named(path, "pipeline", SeasonPipeline)
    changes: dict[str, Any] = {}
    if source is not None:
        changes["source"] = source
    if limit is not None:
        changes["max_sequences"] = limit
    return dataclasses.replace(pipeline, **changes)


def load_cluster(where: str) -> "str | ClusterSpec":
    """``where`` itself, or the ``cluster`` of the Python file that it names."""
    from serengeti_etl.config import ClusterSpec

    if not where.endswith(".py"):
        return where
    spec: ClusterSpec = _load_named(Path(where), "cluster", ClusterSpec)
    return spec


def _load_named(path: Path, name: str, kind: type) -> Any:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    value = runpy.run_path(str(path)).get(name)
    if not isinstance(value, kind):
        raise ConfigError(f"{path} must define `{name} = {kind.__name__}(...)`")
    return value


def run_conversion(
    pipeline: "SeasonPipeline",
    output: str,
    where: "str | ClusterSpec",
    report: Path | None = None,
    *,
    retry_rejects: bool = False,
) -> "dict[str, Conversion]":
    """Convert with a progress line; the ``Conversion`` of each dataset by its url."""
    from serengeti_etl.cluster import open_runner, performance_report
    from serengeti_etl.convert.versions import conversion_versions

    with open_runner(where, conversion_versions) as runner:
        if runner.dashboard is not None:
            click.echo(f"dashboard: {runner.dashboard}", err=True)
        with performance_report(runner, report):
            return _convert_with_line(pipeline, runner, output, retry_rejects=retry_rejects)


def _convert_with_line(
    pipeline: "SeasonPipeline", runner: "Runner", output: str, *, retry_rejects: bool
) -> "dict[str, Conversion]":
    from serengeti_etl.convert.season import convert_season, convert_sizes
    from serengeti_etl.convert.tally import Progress
    from serengeti_etl.storage import join_url

    with _line(unit=" images", desc="convert") as line:
        totals = {"bytes": 0, "rejects": 0}

        def show(progress: Progress) -> None:
            line.total = progress.num_planned
            line.initial += 0 if progress.is_new else progress.num_images
            totals["bytes"] += progress.num_source_bytes
            totals["rejects"] += progress.num_rejected
            seconds = max(line.format_dict["elapsed"], 1e-9)
            rate = totals["bytes"] / 1e6 / seconds
            line.set_postfix_str(f"{rate:.1f} MB/s, {totals['rejects']} rejected", refresh=False)
            line.update(progress.num_images)

        if not pipeline.sizes:
            made = convert_season(pipeline, runner, output, show, retry_rejects=retry_rejects)
            return {output: made}
        by_size = convert_sizes(pipeline, runner, output, show, retry_rejects=retry_rejects)
        return {join_url(output, size): conversion for size, conversion in by_size.items()}


def run_verification(url: str, where: "str | ClusterSpec", share: float = 1.0) -> "Verification":
    """Verify with a progress line; the ``Verification``."""
    from serengeti_etl.cluster import open_runner
    from serengeti_etl.dataset.verify import verify_dataset
    from serengeti_etl.versions import code_versions

    with open_runner(where, code_versions) as runner, _line(unit=" shards", desc="verify") as line:
        return verify_dataset(url, runner, lambda _shard: line.update(), share)


def run_repair(pipeline: "SeasonPipeline", output: str, where: "str | ClusterSpec") -> "Repair":
    """Repair with a progress line of the shards examined; the ``Repair``."""
    from serengeti_etl.cluster import open_runner
    from serengeti_etl.convert.repair import pipeline_of, repair_dataset
    from serengeti_etl.convert.versions import conversion_versions

    with (
        open_runner(where, conversion_versions) as runner,
        _line(unit=" shards", desc="examine") as line,
    ):
        one_size = pipeline_of(pipeline, output)
        return repair_dataset(one_size, runner, output, lambda _shard: line.update())


def run_training(  # noqa: PLR0913 - what the demo does not need has defaults
    url: str,
    run: str,
    recipe: "Recipe",
    settings: "TrainSettings",
    *,
    should_stop: Callable[[], bool] = lambda: False,
    tells: bool = True,
) -> "TrainResult":
    """Train with a progress line, if ``tells``; what the run came to."""
    from serengeti_etl.train.loop import train as train_run
    from serengeti_etl.train.settings import Event

    with _line(unit=" steps", desc="train", disable=not tells) as line:

        def show(event: Event) -> None:
            if event.kind in ("start", "resume"):
                line.total = event.num_steps
                line.initial = line.n = event.step
            elif event.kind == "step":
                line.update()
            elif event.kind == "damaged":
                line.write(f"checkpoint {event.values['name']} is damaged and was passed over")
            elif event.kind == "warning":
                line.write(f"warning: {event.values['text']}")
            elif event.kind in ("log", "validated"):
                shown.update({name: event.values[name] for name in _SHOWN & event.values.keys()})
                line.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})

        shown: dict[str, float] = {}
        return train_run(
            url, run, recipe, settings=settings, on_event=show, should_stop=should_stop
        )


def _line(**kwargs: Any) -> Any:
    """A tqdm progress line; in a log file it is written every ten seconds only."""
    from tqdm import tqdm

    return tqdm(mininterval=0.1 if sys.stderr.isatty() else 10.0, **kwargs)


_SHOWN = {"loss", "score", "class_means_score"}


def run_evaluation(run: str, dataset: str, split: str, device: str, **more: Any) -> "Evaluation":
    """Score a finished run; ``more`` is for ``EvaluationSettings``."""
    _need_training()
    from serengeti_etl.evaluate import EvaluationSettings, evaluate_run
    from serengeti_etl.train.settings import TrainSettings

    settings, evaluation = TrainSettings(device=device), EvaluationSettings(**more)
    return evaluate_run(run, dataset, split, settings=settings, evaluation=evaluation)


def run_prediction(model: str, source: "Source", settings: "PredictSettings") -> "PredictionReport":
    """Predict with a progress line; what came of it."""
    from serengeti_etl.predict.run import predict_photographs

    with _line(unit=" photographs", desc="predict") as line:

        def show(report: "PredictionReport") -> None:
            line.total = report.num_photographs
            line.set_postfix_str(f"{report.failures.total()} failed", refresh=False)
            line.update(report.num_done - line.n)

        return predict_photographs(model, source, settings, show)


def _need_training() -> None:
    needed = ("torch", "torchvision", "safetensors", "simplejpeg")
    missing = [name for name in needed if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"training needs {', '.join(missing)}: install the extra with "
            "`pip install 'serengeti-etl[train]'`"
        )
