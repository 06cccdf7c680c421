"""The command line in a process of its own, whose stacks are told when it hangs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from serengeti_etl.config import SeasonPipeline, ShardSettings
from tests.conftest import season_pipeline

ROOT = Path(__file__).parents[2]

LONGEST_SECONDS = 200.0
"""A driver that takes longer hangs; less than pytest's own limit, which tells no stacks of it."""

PIPELINE = """
import faulthandler, signal
from tests.chaos.drivers import small_shards
faulthandler.register(signal.SIGUSR1)
pipeline = small_shards({season!r})
"""

HELD = """
import pathlib, time
from serengeti_etl.convert import season, shard
honest_make, num_begun = shard.make_shard, 0
def make_when_allowed(task):
    global num_begun
    while num_begun >= int(pathlib.Path({allowed!r}).read_text()):
        time.sleep(0.02)
    num_begun += 1
    return honest_make(task)
season.make_shard = make_when_allowed
"""


def small_shards(season: str) -> SeasonPipeline:
    """The pipeline of the tests with so many shards that there is something to do at any moment."""
    shards = ShardSettings(max_samples=3)
    return replace(season_pipeline(season), shards=shards, max_shard_reject_share=1.0)


def write_pipeline(folder: Path, season: Path) -> Path:
    """A file with that pipeline; its process tells all stacks at SIGUSR1."""
    file = folder / "drawn.py"
    file.write_text(PIPELINE.format(season=str(season)))
    return file


class Hold:
    """Keeps each serial driver of a pipeline at work: it makes so many shards, and waits.

    Args:
        pipeline: of ``write_pipeline``; no shard is made before ``allow``.
    """

    def __init__(self, pipeline: Path) -> None:
        self._allowed = pipeline.with_name("allowed")
        self.allow(0)
        with pipeline.open("a") as lines:
            lines.write(HELD.format(allowed=str(self._allowed)))

    def allow(self, num_shards: int = 10**9) -> None:
        """So many shards of each driver in all; by default all."""
        new = self._allowed.with_name("allowed.new")
        new.write_text(f"{num_shards}\n")
        new.replace(self._allowed)


class Driver:
    """A ``convert`` process.

    Args:
        pipeline: of ``write_pipeline``.
        output: folder of the dataset.
        cluster: as ``--cluster``.
        options: more of the command line.
        **environment: variables of the process.
    """

    within: ClassVar[tuple[str, ...]] = ()
    """A command that runs another one, such as in a namespace."""

    def __init__(
        self,
        pipeline: Path,
        output: Path,
        cluster: str,
        options: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        arguments = ["convert", str(pipeline), "--output", str(output), "--cluster", cluster]
        arguments += options
        self.output = output
        self.said = pipeline.with_name(f"{output.name}-{time.monotonic_ns()}.log")
        with self.said.open("wb") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "serengeti_etl", *arguments],
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=ROOT,
                env=os.environ | environment,
            )

    def wait_for_work(self) -> None:
        """Until it has taken the output's lease, or has ended; fails if it hangs."""
        self._wait(0.005, (self.output / "lease.json").exists)

    def wait_for_commits(self, num_commits: int, while_waiting: Callable[[], object]) -> None:
        """Until so many shards are finished, or it has ended; fails if it hangs.

        Args:
            num_commits: how many.
            while_waiting: called every now and then until then.
        """

        def is_enough() -> bool:
            while_waiting()
            return self.num_commits() >= num_commits

        self._wait(0.005, is_enough)

    def num_commits(self) -> int:
        """Shards that are finished."""
        return len(list(self.output.glob("index/*-*.parquet")))

    def wait(self, while_waiting: Callable[[], object] = lambda: None) -> int:
        """Its exit code; fails with its stacks if it hangs.

        Args:
            while_waiting: called every now and then until it has ended.
        """

        def go_on() -> bool:
            while_waiting()
            return False

        self._wait(0.2, go_on)
        return self.process.wait()

    def _wait(self, seconds: float, is_enough: Callable[[], bool]) -> None:
        end = time.monotonic() + LONGEST_SECONDS
        while self.process.poll() is None and not is_enough():
            if time.monotonic() > end:
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(1)
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"the driver hung:\n{self.said.read_text()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=seconds)
