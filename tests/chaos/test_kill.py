"""SIGKILL at random moments, of every kind of process: the same command ends with equal bytes.

Set NUM_ROUNDS to 32 for a long run. What each round went through is in its log:
``pytest -rP --log-level=INFO | grep killed``.
"""

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from tests.chaos.drivers import ROOT, Driver, small_shards, write_pipeline
from tests.conftest import files_below
from tests.seeds import SEED
from tests.servers import free_port

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.chaos

NUM_ROUNDS = 8
MOST_RUNS = 6
"""Times that the same command is given before it counts as one that does not end."""

KINDS = ("worker", "nanny", "scheduler", "driver")

_SHORT = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
}


class Cluster:
    """A scheduler and two workers with nannies, each begun again when it has ended.

    Args:
        folder: for logs and scratch.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        on = ("--host", "127.0.0.1", "--no-dashboard")
        worker = ("distributed.cli.dask_worker", self.address, *on, "--nthreads", "1")
        self.commands = {
            "scheduler": ("distributed.cli.dask_scheduler", *on, "--port", str(port)),
            "nanny-0": (*worker, "--local-directory", str(folder / "0")),
            "nanny-1": (*worker, "--local-directory", str(folder / "1")),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def keep(self) -> None:
        """Start what is not, or no longer, running."""
        for name, command in self.commands.items():
            process = self.processes.get(name)
            if process is None or process.poll() is not None:
                self.processes[name] = self._start(name, command)

    def _start(self, name: str, command: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", *command],
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | _SHORT,
            )

    def worker(self, name: str) -> psutil.Process | None:
        """The worker process of a nanny, if it has one now."""
        try:
            children = psutil.Process(self.processes[name].pid).children()
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        except psutil.Error:
            return None
        return workers[0] if workers else None

    def stop(self) -> None:
        """End all of it."""
        for name, process in self.processes.items():
            worker = self.worker(name)
            process.kill()
            process.wait()
            if worker is not None and worker.is_running():
                worker.kill()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A running cluster; what one round does to it the next one finds."""
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.keep()
    yield made
    made.stop()


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A conversion when nobody is killed.

    Attributes:
        pipeline: its file.
        files: what it makes.
        num_shards: how many.
        seconds: how long the cluster is at work.
    """

    pipeline: Path
    files: dict[str, bytes]
    num_shards: int
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, season: Path) -> Undisturbed:
    """The conversion here, and how long it takes on the cluster."""
    serial = cluster.folder / "serial"
    convert_season(small_shards(str(season)), SerialRunner(), str(serial))
    files, pipeline = files_below(serial), write_pipeline(cluster.folder, season)
    seconds = 0.0
    for name in ("first", "timed"):  # the first time workers import what they need
        driver = Driver(pipeline, cluster.folder / name, cluster.address)
        driver.wait_for_work()
        started = time.monotonic()
        assert driver.wait(cluster.keep) == 2, driver.said.read_text()
        seconds = time.monotonic() - started
        assert files_below(driver.output) == files
    num_shards = sum(name.endswith(".tar") for name in files)
    return Undisturbed(pipeline=pipeline, files=files, num_shards=num_shards, seconds=seconds)


def kill(kind: str, draw: random.Random, cluster: Cluster, driver: Driver) -> bool:
    """True if there was such a process, which is no more."""
    name = draw.choice(["nanny-0", "nanny-1"])
    if kind == "worker":
        worker = cluster.worker(name)
        if worker is not None:
            worker.kill()
        return worker is not None
    process = {"nanny": cluster.processes[name], "scheduler": cluster.processes["scheduler"]}.get(
        kind, driver.process
    )
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "place",
    range(NUM_ROUNDS),
    ids=lambda place: f"seed{SEED}-{place}-{KINDS[place % len(KINDS)]}",
)
def test_a_kill_does_not_show(
    cluster: Cluster, undisturbed: Undisturbed, tmp_path: Path, place: int
) -> None:
    """One process dies at a random moment of the work, is begun again, and no byte differs."""
    kind, output = KINDS[place % len(KINDS)], tmp_path / "out"
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - a repeatable moment, not a secret
    cluster.keep()
    driver = Driver(undisturbed.pipeline, output, cluster.address)
    driver.wait_for_work()
    if draw.random() < 0.5:
        time.sleep(draw.uniform(0, undisturbed.seconds))
    else:  # or most kills would come before the first shard or after the last
        # A killed scheduler's nannies may end only now, in their own time.
        driver.wait_for_commits(draw.randrange(undisturbed.num_shards), cluster.keep)
    is_killed, num_commits = kill(kind, draw, cluster, driver), driver.num_commits()
    codes = [driver.wait(cluster.keep)]
    while codes[-1] != 2 and len(codes) < MOST_RUNS:
        allowed = {3, -signal.SIGKILL} if kind == "driver" and len(codes) == 1 else {3}
        assert codes[-1] in allowed, driver.said.read_text()
        driver = Driver(undisturbed.pipeline, output, cluster.address)
        codes.append(driver.wait(cluster.keep))
    logger.info("%s killed: %s, %d commits, codes %s", kind, is_killed, num_commits, codes)
    assert codes[-1] == 2, driver.said.read_text()
    assert files_below(output) == undisturbed.files


@pytest.mark.parametrize("where", ["serial", "cluster"], ids=lambda where: f"seed{SEED}-{where}")
@pytest.mark.parametrize("is_later", [False, True], ids=["together", "later"])
def test_two_drivers_at_one_output(
    cluster: Cluster, undisturbed: Undisturbed, tmp_path: Path, where: str, *, is_later: bool
) -> None:
    """One is refused and told who is first, or both end well; no byte differs."""
    draw = random.Random(f"{SEED} {where} {is_later}")  # noqa: S311 - repeatable, not a secret
    cluster.keep()
    address = cluster.address if where == "cluster" else where
    first = Driver(undisturbed.pipeline, tmp_path / "out", address)
    if is_later:
        time.sleep(draw.uniform(0, 1))
    second = Driver(undisturbed.pipeline, tmp_path / "out", address)
    ends = {driver.wait(cluster.keep): driver.said.read_text() for driver in (first, second)}
    assert 2 in ends
    assert ends.keys() <= {2, 4}, ends
    logger.info("two drivers: codes %s", sorted(ends))
    if 4 in ends:
        assert "is being written by process" in ends[4]
        assert "Wait until it has finished, or stop it" in ends[4]
    assert files_below(tmp_path / "out") == undisturbed.files
