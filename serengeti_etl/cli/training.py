"""Commands over runs: train a network, and score it."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serengeti_etl.cli import stopping
from serengeti_etl.cli.boards import TRAINING_STALL_SECONDS, board_options, training_board
from serengeti_etl.cli.codes import COMPLETE, INCOMPLETE, same_command, same_torchrun
from serengeti_etl.cli.options import debug_option, load_named, need_training
from serengeti_etl.cli.progress import progress_line
from serengeti_etl.cli.report import report_run
from serengeti_etl.cli.stopping import stop_on_signals, works_long
from serengeti_etl.cli.supervision import self_supervise_options, take_supervision
from serengeti_etl.cli.telling import Telling, telling_options
from serengeti_etl.errors import ConfigError, Incomplete

if TYPE_CHECKING:
    from serengeti_etl.cli.telling import Listener
    from serengeti_etl.evaluate.judge import Evaluation
    from serengeti_etl.runs.board import Board
    from serengeti_etl.train.recipe import Recipe
    from serengeti_etl.train.settings import TrainResult, TrainSettings

_SHOWN = {"loss", "score", "class_means_score"}


@click.command()
@works_long
@click.argument("url")
@click.option("--run", required=True, help="Folder or url for checkpoints, metrics and the model.")
@click.option("--recipe", type=click.Path(path_type=Path), help="Python file with a Recipe.")
@click.option("--weights", help="Pre-trained weights instead: a path, url or published name.")
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@click.option("--accumulate", default=1, show_default=True, help="Parts of a step; saves memory.")
@click.option("--checkpoint-every", default=500, show_default=True, metavar="STEPS")
@click.option("--scratch", help="Local folder for copies of checkpoints, written first.")
@click.option("--compile", is_flag=True, help="Let torch compile the network.")
@board_options(TRAINING_STALL_SECONDS)
@telling_options
@self_supervise_options
@debug_option
def train(  # noqa: PLR0913 - one parameter per option
    url: str,
    *,
    run: str,
    recipe: Path | None,
    weights: str | None,
    name: str | None,
    stall_after: float,
    hourly_rate: float | None,
    debug: bool,  # noqa: ARG001 - debug is read by main
    **where: Any,
) -> int:
    """Train a network off the dataset at URL; the same command continues a stopped run.

    Several GPUs together: torchrun --nproc-per-node 8 -m serengeti_etl -- train URL --run RUN
    """
    need_training()
    if where["supervise"]:
        _refuse_a_rank(run)
    is_supervised = take_supervision(run, where, hourly_rate)
    telling = Telling.taken_from(where, is_supervised=is_supervised)
    from serengeti_etl.train.ranks import open_ranks
    from serengeti_etl.train.recipe import Recipe
    from serengeti_etl.train.settings import TrainSettings

    settings: Recipe = load_named(recipe, "recipe", Recipe) if recipe else Recipe()
    if weights is not None:
        settings = dataclasses.replace(settings, weights=weights)
    places = TrainSettings(**where)
    with open_ranks(places.torch_device) as ranks:
        is_alone, is_first = ranks.world_size == 1, ranks.is_first
        asked = threading.Event()
        # torchrun hands each signal on to processes that may have had it already.
        again_ends = is_alone and not is_supervised  # which does the same
        stop_on_signals(asked.set, seconds=stopping.SAVE_SECONDS, again=again_ends)
        try:
            with ExitStack() as stack:
                board = stack.enter_context(training_board(run, name, stall_after, hourly_rate))
                told = (
                    [stack.enter_context(telling.open(run, board, settings.settings()))]
                    if is_first
                    else []
                )
                run_training(
                    url,
                    run,
                    settings,
                    places,
                    should_stop=asked.is_set,
                    board=board if is_first else None,
                    listeners=told,
                )
        except Incomplete as error:
            if is_first:
                again = same_command() if is_alone else same_torchrun(ranks.world_size)
                click.echo(f"serengeti-etl: {error}; to continue, run: {again}", err=True)
            return INCOMPLETE
    if is_first:
        click.echo(f"run: {run}\nnext: serengeti-etl evaluate {run} --dataset {url}")
    return COMPLETE


def _refuse_a_rank(run: str) -> None:
    from serengeti_etl.train.ranks import is_launched

    if is_launched():
        raise ConfigError(
            "torchrun starts this training, so that --supervise would begin one rank again without "
            f"the others: supervise torchrun itself, by `serengeti-etl supervise --run {run} -- "
            "torchrun …`"
        )


@click.command()
@works_long
@click.argument("run")
@click.option("--dataset", required=True, help="Folder or url of a dataset.")
@click.option("--split", default="val", show_default=True)
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@click.option("--mirror", is_flag=True, help="Predict mirror images too, and take the mean.")
@click.option("--blank-threshold", type=float, help="Call empty from this probability.")
@debug_option
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
    report_run(run)


def run_training(  # noqa: PLR0913 - what the demo does not need has defaults
    url: str,
    run: str,
    recipe: "Recipe",
    settings: "TrainSettings",
    *,
    should_stop: Callable[[], bool] = lambda: False,
    board: "Board | None" = None,
    listeners: "Sequence[Listener]" = (),
) -> "TrainResult":
    """Train with a progress line and a board, if there is one; what the run came to."""
    from serengeti_etl.train.loop import train as train_run
    from serengeti_etl.train.settings import Event
    from serengeti_etl.train.telling import BoardTeller

    with progress_line(unit=" steps", desc="train", disable=board is None) as line:
        teller = None if board is None else BoardTeller(board)

        def show(event: Event) -> None:
            if teller is not None:
                teller.tell(event)
            for listener in listeners:
                listener(event)
            if event.kind in ("start", "resume"):
                line.total = event.num_steps
                line.initial = line.n = event.step
            elif event.kind == "step":
                line.update()
            elif event.kind == "damaged":
                line.write(f"checkpoint {event.values['name']} is damaged and was passed over")
            elif event.kind in ("warning", "late"):
                line.write(f"warning: {event.values['text']}")
            elif event.kind in ("log", "validated"):
                shown.update({name: event.values[name] for name in _SHOWN & event.values.keys()})
                line.set_postfix({name: f"{value:.4f}" for name, value in shown.items()})

        shown: dict[str, float] = {}
        return train_run(
            url, run, recipe, settings=settings, on_event=show, should_stop=should_stop
        )


def run_evaluation(run: str, dataset: str, split: str, device: str, **more: Any) -> "Evaluation":
    """Score a finished run; ``more`` is for ``EvaluationSettings``."""
    need_training()
    from serengeti_etl.evaluate.run import evaluate_run
    from serengeti_etl.evaluate.settings import EvaluationSettings
    from serengeti_etl.train.settings import TrainSettings

    settings, evaluation = TrainSettings(device=device), EvaluationSettings(**more)
    return evaluate_run(run, dataset, split, settings=settings, evaluation=evaluation)
