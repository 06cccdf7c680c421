"""SIGKILL of the child that resizes carefully, at random moments: no photograph is blamed."""

import random
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cluster import Outcome, SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert import careful
from serengeti_etl.convert.careful import CarefulResizer
from serengeti_etl.convert.season import convert_season
from tests.conftest import files_below
from tests.seeds import SEED

pytestmark = pytest.mark.chaos

NUM_ROUNDS = 1


honest_ask = CarefulResizer._ask


class CarefulRunner(SerialRunner):
    """Runs every task as after the death of a worker."""

    def map(
        self, function: Callable[[Any], Any], tasks: Iterable[Any]
    ) -> Iterator[Outcome[Any, Any]]:
        """See ``Runner.map``."""
        return super().map(function, (task.careful() for task in tasks))


class Striker:
    """Kills the child at random moments of its work, of one photograph never all its tries.

    Args:
        draw: says when.
    """

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        self.photograph = b""
        self.num_strikes = 0
        self.num_killed = 0
        self.victim: subprocess.Popen[bytes] | None = None

    def ask(self, resizer: CarefulResizer, photograph: bytes) -> careful.Outcomes | None:
        """As ``CarefulResizer._ask``."""
        if photograph is not self.photograph:
            # One that was killed just when it had answered is a death that this photograph meets.
            is_dead = self.victim is not None and self.victim is resizer._child
            self.photograph, self.num_strikes = photograph, int(is_dead)
        is_spared = self.num_killed > 0 and self.draw.random() > 0.4
        if self.num_strikes == careful._TRIES_BY_CHANCE - 1 or is_spared:
            return honest_ask(resizer, photograph)
        self.num_strikes += 1
        is_there = resizer._child is not None
        seconds = self.draw.uniform(0, 0.002 if is_there else 0.3)  # to resize, or to start first
        timer = threading.Timer(seconds, self.kill, (resizer,))
        timer.start()
        outcomes = honest_ask(resizer, photograph)
        timer.cancel()
        timer.join()
        return outcomes

    def kill(self, resizer: CarefulResizer) -> None:
        """The child that is there."""
        child = resizer._child
        if child is not None:
            child.kill()
            self.victim = child
            self.num_killed += 1


@pytest.mark.parametrize("place", range(NUM_ROUNDS), ids=lambda place: f"seed{SEED}-{place}")
def test_a_killed_child_does_not_show(
    pipeline: SeasonPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Whatever it was at: every byte, and the rejects, as undisturbed, in the same run."""
    monkeypatch.setattr(careful, "_WAIT_SECONDS", 0.01)
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - a repeatable moment, not a secret
    convert_season(pipeline, SerialRunner(), str(tmp_path / "undisturbed"))
    striker = Striker(draw)

    def struck(resizer: CarefulResizer, photograph: bytes) -> careful.Outcomes | None:
        return striker.ask(resizer, photograph)

    monkeypatch.setattr(CarefulResizer, "_ask", struck)
    convert_season(pipeline, CarefulRunner(), str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == files_below(tmp_path / "undisturbed")
    assert striker.num_killed > 0
