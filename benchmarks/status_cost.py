"""What a board costs a training: CPU and wall time with and without one, in turn.

    python benchmarks/status_cost.py [--steps 600] [--step-ms 50] [--history 20000] [--rounds 5]
        [--no-bucket]

One process; in each round the same training runs without a board, with one in a folder and with one
in a bucket of a real S3 server on loopback (another process, whose CPU is not counted). The network
has a few hundred weights and each step ends with a sleep, so that a step takes ``--step-ms`` and
little CPU, in which the board's shows. ``--history`` records are there before the first step, as
after days: curves, page and ``metrics.jsonl`` have their full size.

``CPU more`` is what the process took more than without a board, as a share of the wall time of its
steps: the whole cost, where no core is idle, while the thread beside the loop usually finds one.
``calls`` is the time in the loop's own thread, per step. ``wall`` is against the same round's run
without a board. The first ``SKIPPED`` steps stand apart, as ``once``: in them the page's template
is read, and all of the history.
"""

import argparse
import dataclasses
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import print_table, ratios, spread, text
from serengeti_etl.runs.board import Board, BoardSettings
from serengeti_etl.storage import Store
from serengeti_etl.train.loop import train
from serengeti_etl.train.recipe import Recipe, Stage
from serengeti_etl.train.settings import Event, TrainSettings
from serengeti_etl.train.telling import BoardTeller
from tests.dataset_factory import Recipe as Drawn
from tests.dataset_factory import make_dataset
from tests.servers import S3_CREDENTIALS, s3_server
from tests.train import tiny

BATCH = 4
SKIPPED = 40
BUCKET = "board-cost"


@dataclass(kw_only=True, slots=True)
class Run:
    """One training.

    Attributes:
        once_seconds: CPU of the process in the first steps.
        cpu_seconds: likewise in those after them.
        wall_seconds: of these.
        call_seconds: of these in the board's calls, in the loop's thread.
        num_bytes: of the page at its end; 0 without a board.
    """

    once_seconds: float = 0.0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    call_seconds: float = 0.0
    num_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What all trainings have in common.

    Attributes:
        dataset: its url.
        folder: for runs.
        num_steps: of each.
        step_seconds: of a step, most of it asleep.
        history: records that are there before.
    """

    dataset: str
    folder: Path
    num_steps: int
    step_seconds: float
    history: list[dict[str, Any]] = field(default_factory=list)


def history_of(num_records: int) -> list[dict[str, Any]]:
    """Records as of a long training."""
    return [
        {
            "kind": "train",
            "step": -20 * (num_records - at),
            "epoch": 0,
            "stage": "small",
            "loss": 0.03 + 0.5 * math.exp(-at / 2000) + 0.01 * math.sin(at),
            "learning_rate": 1e-3,
            "images_per_second": 900.0 + math.sin(at),
            "data_wait": 0.01,
            "time": 1.7e9 + at,
        }
        for at in range(num_records)
    ]


def run_once(job: Job, board: Board | None) -> Run:
    """A training, told to a board or not."""
    run, beat = Run(), time.perf_counter()
    started, call_seconds = (0.0, 0.0), 0.0
    teller = None if board is None else BoardTeller(board)

    def on_event(event: Event) -> None:
        nonlocal beat, started, call_seconds
        if event.kind == "start":
            event.values["metrics"].records.extend(job.history)
        before = time.perf_counter()
        if teller is not None:
            teller.tell(event)
            run.call_seconds += time.perf_counter() - before
        if event.kind == "start":
            started = time.process_time(), time.perf_counter()
            beat = started[1]
        elif event.kind == "step":
            beat += job.step_seconds
            time.sleep(max(0.0, beat - time.perf_counter()))
            if event.step == SKIPPED:
                run.once_seconds, run.call_seconds = time.process_time() - started[0], 0.0
                started = time.process_time(), time.perf_counter()
            if event.step == job.num_steps:
                run.cpu_seconds = time.process_time() - started[0]
                run.wall_seconds = time.perf_counter() - started[1]
                call_seconds = run.call_seconds

    with tempfile.TemporaryDirectory(dir=job.folder) as scratch:
        settings = TrainSettings(device="cpu", num_threads=1, checkpoint_every=10**9)
        url = f"{scratch}/run"
        stage = Stage(name="small", epochs=1, image_size=(32, 32), batch_size=BATCH)
        recipe = Recipe(model="resnet18", stages=(stage,))
        train(job.dataset, url, recipe, settings=settings, on_event=on_event)
    run.call_seconds = call_seconds
    if board is not None:
        board.close("done")
        run.num_bytes = board.store.num_bytes("index.html")
    return run


@contextmanager
def places(folder: Path, *, has_bucket: bool) -> Iterator[dict[str, Callable[[], Store] | None]]:
    """Where boards write, by what the table calls it."""
    numbers = iter(range(10**6))
    found: dict[str, Callable[[], Store] | None] = {
        "no board": None,
        "folder": lambda: Store(url=str(folder / f"board-{next(numbers)}")),
    }
    with ExitStack() as stack:
        if has_bucket:
            endpoint = stack.enter_context(s3_server(folder / "s3"))
            os.environ.update(S3_CREDENTIALS | {"AWS_ENDPOINT_URL": endpoint})
            import s3fs

            s3fs.S3FileSystem().mkdir(BUCKET)
            found["bucket"] = lambda: Store(url=f"s3://{BUCKET}/board-{next(numbers)}")
        yield found


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--step-ms", type=float, default=50.0)
    parser.add_argument("--history", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-bucket", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as scratch:
        tiny.install(patch)
        folder = Path(scratch)
        sizes = {"train": (options.steps * BATCH,), "val": (9,)}
        job = Job(
            dataset=make_dataset(str(folder / "dataset"), Drawn(sizes=sizes)).store.url,
            folder=folder,
            num_steps=options.steps,
            step_seconds=options.step_ms / 1000,
            history=history_of(options.history),
        )
        with places(folder, has_bucket=not options.no_bucket) as found:
            run_once(dataclasses.replace(job, num_steps=10**9, step_seconds=0.0), None)  # warm
            runs: dict[str, list[Run]] = {name: [] for name in found}
            for _ in range(options.rounds):
                for name, place in found.items():
                    settings = BoardSettings(kind="train", name="cost", hourly_rate=1.0)
                    board = None if place is None else Board(place(), settings)
                    runs[name].append(run_once(job, board))
            report(runs, options.steps)


def report(runs: dict[str, list[Run]], num_steps: int) -> None:
    """Print what was measured."""
    print(f"Python {platform.python_version()}, torch {torch.__version__}, {num_steps} steps")
    without, num_steps = runs["no board"], num_steps - SKIPPED
    lines = []
    for name, some in runs.items():
        walls = ratios((one.wall_seconds for one in some), (one.wall_seconds for one in without))
        more = spread(
            (one.cpu_seconds - other.cpu_seconds) / other.wall_seconds
            for one, other in zip(some, without, strict=True)
        )
        cpu = spread(one.cpu_seconds / num_steps for one in some)
        calls = spread(one.call_seconds / num_steps for one in some)
        size = f"{some[-1].num_bytes / 1000:.0f}"
        once = spread(
            one.once_seconds - other.once_seconds for one, other in zip(some, without, strict=True)
        )
        more_text, calls_text = text(more, 100, 2), text(calls, 1e6)
        cells = [text(cpu, 1e3, 2), more_text, calls_text, text(walls, 1, 4), text(once, 1e3, 0)]
        lines.append([name, *cells, size])
    head = ["board", "CPU ms a step", "CPU more, % of wall", "calls, µs a step", "wall"]
    head += ["once, ms", "page, KB"]
    print_table(head, lines)


if __name__ == "__main__":
    main()
