"""One rank of a torchrun: trains the tiny network, and writes down what each step saw.

Usage: torchrun ... rank_trainer.py DATASET RUN NOTES ACCUMULATE PAUSE [STOP]

``NOTES`` is a folder; each rank adds lines to a file of its own there. ``PAUSE`` is the time in
seconds between steps; with one the run does not end, but waits before its last step to be killed.
``STOP`` is a step after which the run is asked to stop, on its last rank alone.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from serengeti_etl.errors import ConfigError, Incomplete
from serengeti_etl.load.batch import Batch
from serengeti_etl.train import loop
from serengeti_etl.train.loop import train
from serengeti_etl.train.model import Classifier
from serengeti_etl.train.ranks import open_ranks
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import TrainSettings
from serengeti_etl.train.validation import Part, predict_part
from tests.train import tiny

RECIPE = Recipe(
    model="resnet18",
    stages=(
        Stage(name="small", epochs=2, image_size=(32, 32), batch_size=12, learning_rate=0.02),
        Stage(name="large", epochs=1, image_size=(32, 40), batch_size=6, learning_rate=0.01),
    ),
    average=0.9,
)
"""6 + 6 + 12 steps on 77 images, whose batches 1, 2, 3 and 6 parts can share."""

NUM_STEPS = 24

STOPPED = 3


def install(notes: Path, pause: float) -> None:
    """Let steps tell their number, places and images, validations BatchNorm's statistics."""
    original: Any = vars(loop._Trainer)["_step"]
    tiny.install(pytest.MonkeyPatch())

    def noted(self: Any, stage: Stage, parts: Iterator[Batch]) -> None:
        seen: list[Any] = []

        def watched() -> Iterator[Batch]:
            for batch in parts:
                seen.extend(zip(batch.positions_B.tolist(), batch.image_ids, strict=True))
                yield batch

        original(self, stage, watched())
        with (notes / f"rank-{self._ranks.rank}").open("a") as file:
            file.write(json.dumps([self._place.step, seen]) + "\n")
        time.sleep(1000 if pause and self._place.step == NUM_STEPS - 1 else pause)

    def validated(model: Classifier, batches: Iterable[Batch]) -> Part:
        statistics = {name: value.tolist() for name, value in model.network.named_buffers()}
        with (notes / f"statistics-{dist.get_rank()}").open("a") as file:
            file.write(json.dumps(statistics) + "\n")
        return predict_part(model, batches)

    setattr(loop._Trainer, "_step", noted)  # noqa: B010 - a private method
    setattr(loop, "predict_part", validated)  # noqa: B010 - imported there


def settings_of(accumulate: int) -> TrainSettings:
    """A checkpoint every two steps."""
    return TrainSettings(
        checkpoint_every=2, log_every=4, num_threads=1, device="cpu", accumulate=accumulate
    )


def main() -> None:
    """Train until the end, or until it is asked to stop."""
    torch.set_num_threads(1)
    dataset, run, notes, accumulate, pause = sys.argv[1:6]
    stop_at = int(sys.argv[6]) if len(sys.argv) > 6 else None
    install(Path(notes), float(pause))
    dist.init_process_group("gloo")
    rank, last = dist.get_rank(), dist.get_world_size() - 1

    def should_stop() -> bool:
        lines = (Path(notes) / f"rank-{rank}").read_text().splitlines()
        return rank == last and stop_at is not None and json.loads(lines[-1])[0] >= stop_at

    try:
        train(dataset, run, RECIPE, settings=settings_of(int(accumulate)), should_stop=should_stop)
        _fail_on_the_first(Path(notes), rank)
    except Incomplete:
        sys.exit(STOPPED)
    finally:
        dist.destroy_process_group()


def _fail_on_the_first(notes: Path, rank: int) -> None:
    """Note what every rank hears of what the first alone does wrong."""

    def refuse() -> None:
        raise ConfigError(f"refused on rank {rank}")

    with open_ranks(torch.device("cpu")) as ranks:
        try:
            ranks.from_first(refuse)
        except ConfigError as error:
            (notes / f"heard-{rank}").write_text(str(error))


if __name__ == "__main__":
    main()
