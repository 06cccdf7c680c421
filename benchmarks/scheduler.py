"""What it costs to hand out shards: planned, submitted and collected, and nothing done.

    python benchmarks/scheduler.py [--tasks 1000,10000,100000] [--rounds 3]

Each count in a fresh process with a ``LocalCluster`` of two workers: a catalog of so many
photographs is planned with one to a shard, every shard becomes a task as a conversion makes it,
``DaskRunner.map`` hands them to workers that return at once with a report, and the driver keeps
each shard's record, as a conversion does. Memory is what ``peer_watch`` sees; driver and scheduler
are one process here. The scheduler's CPU is that of its event loop's thread, which also carries
the driver's talk with it. What is told of seasons comes from the cost of each further task,
between the least count and the most. Linux only.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


from benchmarks.peer_runs import facts
from benchmarks.report import print_table
from serengeti_etl.catalog.selection import select_images
from serengeti_etl.cluster import Outcome, open_runner
from serengeti_etl.config import ClusterSpec, ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert.plan import Plan, PlannedShard, make_plan
from serengeti_etl.convert.shard import ShardOutput, ShardReport, ShardTask, TaskReport
from serengeti_etl.dataset.index import ShardInfo
from serengeti_etl.label_config import FractionSplit
from serengeti_etl.storage import Store
from tests.catalog_factory import make_catalog

ROOT = Path(__file__).resolve().parents[1]
NUM_WORKERS = 2
SHARD_SIZE = 1000
"""Photographs to a shard in a season."""

IMAGE_CPU_SECONDS = 0.0179
"""Of a worker for one photograph of 2048x1536: RESULTS.md, the conversion beside its peers."""

SEASONS = {"Snapshot Serengeti, 7,178,440 images": 7_178_440, "1 B images": 1_000_000_000}
TIMEOUT = 3600.0
STAGES = ("fetch", "decode", "reduce", "encode", "tar", "hash", "upload")

PIPELINE = SeasonPipeline(
    name="scheduler",
    source="s3://a-bucket-of-theirs/snapshotserengeti-unzipped",
    labels="labels.json",
    split=FractionSplit(val_fraction=0.2, stratify=False),
    shards=ShardSettings(max_samples=1),
)


def make_shard(task: ShardTask) -> TaskReport:
    """A report as of a shard that was made."""
    (output,) = task.outputs
    info = ShardInfo(
        name=task.name,
        split=task.split,
        num_samples=SHARD_SIZE,
        num_bytes=60_000_000,
        num_rejected=0,
        sha256=output.fingerprint,
        fingerprint=output.fingerprint,
    )
    seconds = dict.fromkeys(STAGES, 1.5)
    return TaskReport(
        shards=(ShardReport(info=info),), num_source_bytes=750_000_000, seconds=seconds
    )


def drawn_plan(num_shards: int) -> Plan:
    """The plan of a catalog of so many photographs, each a shard."""
    ids = [f"S1/B{at % 225:03}/B{at % 225:03}_R1/PICT{at:09}" for at in range(num_shards)]
    columns = {
        "image_id": [name.replace("/", "_") for name in ids],
        "seq_id": ids,
        "frame_num": [1] * num_shards,
        "file_name": [f"{name}.JPG" for name in ids],
        "site": [f"B{at % 225:03}" for at in range(num_shards)],
        "season": ["S1"] * num_shards,
        "labels": [["empty"]] * num_shards,
    }
    return make_plan(select_images(make_catalog(columns), PIPELINE), PIPELINE, "encoder")


def tasks_of(shards: tuple[PlannedShard, ...]) -> Iterator[ShardTask]:
    """The tasks of a conversion, as ``convert.season`` makes them."""
    output, images = Store(url="s3://a-bucket-of-ours/serengeti-512"), Store(url=PIPELINE.source)
    for shard in shards:
        yield ShardTask(
            name=shard.name,
            split=shard.split,
            row_group=shard.row_group,
            plan=output,
            outputs=(
                ShardOutput(store=output, resize=ResizeSettings(), fingerprint=shard.fingerprint),
            ),
            images=images,
            encoder="libvips 8.18.7, libjpeg-turbo 3.1.0",
            num_threads=1,
        )


def loop_cpu() -> float:
    """CPU seconds of the thread that this runs in: asked of a scheduler, its event loop's."""
    return time.thread_time()


def measure(num_tasks: int) -> None:
    """One count, in this process; prints what it took as JSON."""
    options = {
        "n_workers": NUM_WORKERS,
        "threads_per_worker": 1,
        "dashboard_address": "127.0.0.1:0",
    }
    started = time.perf_counter()
    plan = drawn_plan(num_tasks)
    planned = time.perf_counter()
    records: dict[str, ShardInfo] = {}
    spec = ClusterSpec(cluster="distributed:LocalCluster", options=options)
    with open_runner(spec) as runner:
        client: Any = runner.client  # type: ignore[attr-defined]
        client.wait_for_workers(NUM_WORKERS)
        loop, driver, submitted = _clocks(client)
        outcome: Outcome[ShardTask, TaskReport]
        for outcome in runner.map(make_shard, tasks_of(plan.shards)):
            if outcome.result is None:
                raise SystemExit(f"{outcome.task.name} failed: {outcome.error}")
            records[outcome.task.name] = outcome.result.shards[0].info
        loop_end, driver_end, ended = _clocks(client)
    if len(records) != num_tasks:
        raise SystemExit(f"{len(records)} of {num_tasks} tasks came back")
    found = {
        "plan_seconds": planned - started,
        "map_seconds": ended - submitted,
        "scheduler_cpu": loop_end - loop,
        "driver_cpu": driver_end - driver,
    }
    print(json.dumps(found))


def _clocks(client: Any) -> tuple[float, float, float]:
    """CPU seconds of scheduler and driver, and the time."""
    return client.run_on_scheduler(loop_cpu), time.thread_time(), time.perf_counter()


def run(num_tasks: int) -> dict[str, float]:
    """One count, in a process tree that is watched."""
    # Not as a script: workers must find the task's function by the name of its module.
    code = f"from benchmarks.scheduler import measure; measure({num_tasks})"
    command = [sys.executable, str(ROOT / "benchmarks" / "peer_watch.py"), str(TIMEOUT)]
    ended = subprocess.run(  # noqa: S603 - the benchmark's own command
        [*command, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    said = str(found["output"]).strip().splitlines()
    if found["exit"] or found["timed_out"]:
        raise SystemExit(f"{num_tasks} tasks: {said[-1] if said else 'no message'}")
    value: dict[str, float] = json.loads(said[-1])
    return value | {key: found[key] for key in ("driver_bytes", "worker_bytes", "peak_bytes")}


def medians(samples: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {key: statistics.median(one[key] for one in samples) for key in samples[0]}


def print_counts(found: dict[int, dict[str, float]]) -> None:
    """The table."""
    head = (
        "tasks",
        "plan s",
        "submit and collect s",
        "ms a task",
        "CPU ms a task, scheduler",
        "driver",
        "driver and scheduler MB",
        "largest worker MB",
        "whole tree, PSS, MB",
    )
    lines = [
        [
            f"{num:,}",
            f"{one['plan_seconds']:.1f}",
            f"{one['map_seconds']:.1f}",
            f"{1000 * one['map_seconds'] / num:.2f}",
            f"{1000 * one['scheduler_cpu'] / num:.2f}",
            f"{1000 * one['driver_cpu'] / num:.2f}",
            f"{one['driver_bytes'] / 1e6:.0f}",
            f"{one['worker_bytes'] / 1e6:.0f}",
            f"{one['peak_bytes'] / 1e6:.0f}",
        ]
        for num, one in found.items()
    ]
    print_table(head, lines)


def each_further(found: dict[int, dict[str, float]]) -> dict[str, float]:
    """What one more task takes, by figure: from the least count to the most."""
    least, most = min(found), max(found)
    return {key: (found[most][key] - found[least][key]) / (most - least) for key in found[most]}


def say(found: dict[int, dict[str, float]], further: dict[str, float]) -> None:
    """What it means for whole seasons."""
    start = found[min(found)]["driver_bytes"]
    print(
        f"each further task: {1000 * further['map_seconds']:.2f} ms, of the scheduler's CPU "
        f"{1000 * further['scheduler_cpu']:.2f} ms, of planning "
        f"{1000 * further['plan_seconds']:.2f} ms, and {further['driver_bytes']:,.0f} bytes of "
        "driver and scheduler"
    )
    for title, num_images in SEASONS.items():
        num = -(-num_images // SHARD_SIZE)
        print(
            f"{title} in shards of {SHARD_SIZE:,}: {num:,} tasks, "
            f"{num * further['scheduler_cpu'] / 60:.1f} minutes of the scheduler's CPU beside "
            f"{num_images * IMAGE_CPU_SECONDS / 3600:,.0f} core hours of work, and "
            f"{(start + num * further['driver_bytes']) / 1e9:.2f} GB of driver and scheduler"
        )
    cores = SHARD_SIZE * IMAGE_CPU_SECONDS / further["scheduler_cpu"]
    print(
        f"a shard keeps a core busy for {SHARD_SIZE * IMAGE_CPU_SECONDS:.0f} s, so one scheduler "
        f"can feed about {cores:,.0f} cores"
    )


def main() -> None:
    """Print a table, what it means, and a line of JSON."""
    parser = argparse.ArgumentParser(description="What it costs to hand out shards.")
    parser.add_argument("--tasks", default="1000,10000,100000", help="how many, by commas")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    counts = sorted({int(count) for count in given.tasks.split(",")})
    known = facts(None)
    samples: dict[int, list[dict[str, float]]] = {num: [] for num in counts}
    for at in range(given.rounds):
        for num in counts:
            samples[num].append(run(num))
            print(f"round {at + 1}: {num}: {samples[num][-1]}", file=sys.stderr)
    found = {num: medians(taken) for num, taken in samples.items()}
    print(f"{NUM_WORKERS} workers, medians of {given.rounds} rounds, each a fresh process tree")
    print_counts(found)
    results: dict[str, Any] = {"facts": known, "counts": found}
    if len(counts) > 1:
        results["each_further"] = each_further(found)
        say(found, results["each_further"])
    print(json.dumps(results, ensure_ascii=False))


if __name__ == "__main__":
    main()
