"""How long training waits for data, beside the same training on one batch that never moves.

    python benchmarks/train_wait.py [DATASET] [--model resnet18] [--size 64] [--batch 32]
        [--steps 40] [--rounds 5] [--device auto] [--throttle 2.0]

Without a dataset, a small season is drawn and converted. Three feeds in one process, in turn within
each round, over the same network, optimiser and steps:

* ``loader``: batches off the shards, as ``train`` takes them;
* ``resident``: one batch of noise that lies on the device, the bound of any loader;
* ``throttled``: the loader, with a sleep before each batch of ``--throttle`` resident steps: a
  negative control, whose waiting must be seen.

``wait`` is the share of wall time in ``next()``; p50, p99 and max are milliseconds of single waits,
the first batch of each round left out; ``ready`` is the share of waits below a millisecond: batches
that were there when asked for. ``queue`` and ``queue_min`` are the batches that lay ready in the
loader when one was asked for, mean and least; it works on two at most. ``ratio`` is the images per
second against ``resident`` of the same round, median of the rounds. On a GPU each step is waited
for at its end, so that a wait is a wait: what is told of the loader is then the worst case, as
nothing runs ahead.
"""

import argparse
import dataclasses
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from serengeti_etl.demo import demo_pipeline
from serengeti_etl.load.batch import Batch
from serengeti_etl.load.device import Output
from serengeti_etl.load.loader import ShardLoader
from serengeti_etl.load.ready import Depth, ReadyBatches
from serengeti_etl.sample import SampleSettings, draw_season
from serengeti_etl.train.feed import on_device
from serengeti_etl.train.losses import LOSSES
from serengeti_etl.train.model import Classifier, build_classifier, mixed_precision
from serengeti_etl.train.settings import TrainSettings

FEEDS = ("loader", "resident", "throttled")
READY_SECONDS = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What one feed did in one round.

    Attributes:
        seconds: wall time of all steps but the first.
        waits_S: seconds in ``next()`` of each of them.
        images_per_second: of those steps.
        queue: batches ready in the loader when one was asked for, which nobody did of ``resident``.
    """

    seconds: float
    waits_S: tuple[float, ...]
    images_per_second: float
    queue: Depth

    @property
    def wait_share(self) -> float:
        """Share of wall time in ``next()``, 0 to 1."""
        return sum(self.waits_S) / self.seconds


class Trainer:
    """A network that takes steps, and waits for each to end."""

    def __init__(self, model: str, num_classes: int, device: torch.device) -> None:
        built = build_classifier(model, np.full(num_classes, 0.1), None)
        layout: Any = {"memory_format": torch.channels_last}
        self.model: Classifier = built.to(device, **layout).train()
        self.device = device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def step(self, batch: Batch) -> None:
        """Forward, backward and an update."""
        self.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(self.device):
            logits_BC = self.model(batch.images_BCHW)
        torch.autograd.backward(LOSSES["bce"](logits_BC, batch.targets_BC))
        self.optimizer.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def main() -> None:
    """Print the table and a line of JSON."""
    options = parse()
    settings = TrainSettings(device=options.device)
    device = settings.torch_device
    with tempfile.TemporaryDirectory() as scratch:
        url = options.dataset or drawn_dataset(Path(scratch))
        size = (options.size * 3 // 4, options.size)
        on_cpu = settings.resizes_on == "cpu"
        loader = ShardLoader(
            url,
            split="train",
            batch_size=options.batch,
            settings=settings.loader_settings(size, resize_on=settings.resizes_on),
        )
        trainer = Trainer(options.model, len(loader.classes), device)
        with loader:
            endless = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())
            feed = on_device(endless, device, None if on_cpu else Output(image_size=size))
            rounds = measure(trainer, feed, loader.ready, options)
        advice = loader.report().advice()
    report = {name: summary(rounds[name], rounds["resident"]) for name in FEEDS}
    show(report, advice)
    machine = {"device_name": device_name(device), "torch": torch.__version__, "cores": cores()}
    print(json.dumps(machine | vars(options) | {"feeds": report}))


def measure(
    trainer: Trainer, feed: Iterator[Batch], ready: ReadyBatches, options: argparse.Namespace
) -> dict[str, list[Round]]:
    """Rounds of each feed; the feeds take turns."""
    still = resident(next(feed))
    take(trainer, itertools.repeat(still), 3, ready)  # warm
    pause = (
        statistics.median(
            take(trainer, itertools.repeat(still), 2, ready).seconds for _ in range(3)
        )
        * options.throttle
    )

    def throttled() -> Iterator[Batch]:
        for batch in feed:
            time.sleep(pause)
            yield batch

    feeds: dict[str, Callable[[], Iterator[Batch]]] = {
        "loader": lambda: feed,
        "resident": lambda: itertools.repeat(still),
        "throttled": throttled,
    }
    rounds: dict[str, list[Round]] = {name: [] for name in FEEDS}
    for number in range(options.rounds):
        # Another one goes first in each round.
        order = FEEDS[number % 3 :] + FEEDS[: number % 3]
        for name in order:
            rounds[name].append(take(trainer, feeds[name](), options.steps + 1, ready))
    return rounds


def take(trainer: Trainer, batches: Iterator[Batch], num_steps: int, ready: ReadyBatches) -> Round:
    """So many steps; the first one is not counted, as its batch was decoded while others worked."""
    trainer.step(next(batches))
    ready.read()  # so that what follows is of this round
    waits, num_images = [], 0
    started = time.perf_counter()
    for _ in range(num_steps - 1):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
        num_images += len(batch.image_ids)
        trainer.step(batch)
    seconds = time.perf_counter() - started
    return Round(
        seconds=seconds,
        waits_S=tuple(waits),
        images_per_second=num_images / seconds,
        queue=ready.read(),
    )


def resident(batch: Batch) -> Batch:
    """A batch of noise, of the same shape and in the same place."""
    return dataclasses.replace(batch, images_BCHW=torch.randint_like(batch.images_BCHW, 256))


def summary(rounds: list[Round], base: list[Round]) -> dict[str, float | None]:
    """Figures of one feed over all rounds; times in milliseconds."""
    num_asked = sum(one.queue.num_asked for one in rounds)
    num_ready = sum(one.queue.num_ready for one in rounds)
    least = [one.queue.least for one in rounds if one.queue.least is not None]
    waits = 1000 * np.array([wait for one in rounds for wait in one.waits_S])
    ratios = [
        one.images_per_second / other.images_per_second
        for one, other in zip(rounds, base, strict=True)
    ]
    return {
        "images_per_second": round(statistics.median(r.images_per_second for r in rounds), 2),
        "ratio": round(statistics.median(ratios), 4),
        "wait": round(statistics.median(r.wait_share for r in rounds), 4),
        "p50_ms": round(float(np.percentile(waits, 50)), 3),
        "p99_ms": round(float(np.percentile(waits, 99)), 3),
        "max_ms": round(float(waits.max()), 3),
        "ready": round(float((waits < 1000 * READY_SECONDS).mean()), 3),
        "queue": round(num_ready / num_asked, 2) if num_asked else None,
        "queue_min": min(least, default=None),
    }


def show(report: dict[str, dict[str, float | None]], advice: str) -> None:
    """The table."""
    columns = list(report["loader"])
    print(f"{'feed':<10}" + "".join(f"{name:>18}" for name in columns))
    for name, values in report.items():
        cells = ["" if values[column] is None else values[column] for column in columns]
        print(f"{name:<10}" + "".join(f"{cell:>18}" for cell in cells))
    print(f"loader, all rounds together, pauses between them included: {advice}")


def drawn_dataset(folder: Path) -> str:
    """Address of a small drawn season, converted."""
    settings = SampleSettings(width=1024, height=768, num_sequences=150)
    draw_season(folder / "season", settings)
    output = str(folder / "dataset")
    convert_season(demo_pipeline(str(folder / "season")), SerialRunner(), output)
    return output


def device_name(device: torch.device) -> str:
    """Of the GPU or CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def cores() -> int:
    """Threads that torch computes with on the CPU."""
    return torch.get_num_threads()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="How long training waits for data.")
    parser.add_argument("dataset", nargs="?", help="folder or url of a dataset")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=64, help="width in px; the height is 3/4 of it")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--throttle", type=float, default=2.0, help="resident steps slept per batch"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
