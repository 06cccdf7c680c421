"""SIGKILL of a driver that adds to a dataset: the same command ends with equal bytes.

Set NUM_ROUNDS to 30 for a long run.
"""

import json
import logging
import random
import secrets
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from serengeti_etl.dataset.index import open_dataset
from serengeti_etl.dataset.verify import verify_dataset
from tests.chaos.drivers import Driver, small_shards, write_pipeline
from tests.conftest import files_below
from tests.growing import GrowingSeason

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.chaos

NUM_ROUNDS = 6
MOST_KILLS = 3

SEED: int | None = None
"""Set it to the number in a failed test's name to meet the same kills again, but for the timing."""

_SEED = secrets.randbelow(10**6) if SEED is None else SEED
RETRY = ("--retry-rejects",)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something that is added to a dataset.

    Attributes:
        pipeline: file of the pipeline.
        before: the dataset to which it is added.
        after: files of the dataset when nobody is killed.
        options: of the command.
        seconds: that a driver is at work.
        num_editions: afterwards.
    """

    pipeline: Path
    before: Path
    after: dict[str, bytes]
    options: tuple[str, ...]
    seconds: float
    num_editions: int


@pytest.fixture(scope="module")
def steps(season: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    """A growth, and a retry that recovers some of the rejects; each with a source of its own."""
    folder = tmp_path_factory.mktemp("steps")

    def grow(growing: GrowingSeason) -> None:
        growing.take_all()

    def mend(growing: GrowingSeason) -> None:
        names = [image["file_name"] for image in growing.labels["images"]]
        growing.mend(next(one for one in names if not (growing.folder / "images" / one).exists()))

    made = {}
    kinds: dict[str, tuple[Callable[[GrowingSeason], None], tuple[str, ...]]] = {
        "growth": (grow, ()),
        "retry": (mend, RETRY),
    }
    for name, (change, options) in kinds.items():
        place = folder / name
        place.mkdir()
        growing = GrowingSeason(season, place / "source")
        if name == "retry":
            growing.take_all()
        else:
            growing.take(lambda seq_id: hash_of(seq_id) % 2 == 0)
        convert_season(small_shards(str(growing.folder)), SerialRunner(), str(place / "before"))
        change(growing)
        pipeline = write_pipeline(place, growing.folder)
        shutil.copytree(place / "before", place / "after")
        driver = Driver(pipeline, place / "after", "serial", options)
        driver.wait_for_work()
        started = time.monotonic()
        assert driver.wait() == 2, driver.said.read_text()
        assert verify_dataset(str(place / "after"), SerialRunner()).problems == ()
        made[name] = Step(
            pipeline=pipeline,
            before=place / "before",
            after=files_below(place / "after"),
            options=options,
            seconds=time.monotonic() - started,
            num_editions=2,
        )
        assert len(open_dataset(str(place / "after")).info.editions) == 2
    return made


def hash_of(text: str) -> int:
    """The same number in every process."""
    return sum(text.encode())


@pytest.mark.parametrize("place", range(NUM_ROUNDS), ids=lambda place: f"seed{_SEED}-{place}")
@pytest.mark.parametrize("name", ["growth", "retry"])
def test_a_killed_edition_is_finished_by_the_same_command(
    steps: dict[str, Step], tmp_path: Path, name: str, place: int
) -> None:
    """Drivers die at random moments, the dataset of before opens each time, and no byte differs."""
    step, output = steps[name], tmp_path / "out"
    draw = random.Random(f"{_SEED} {name} {place}")  # noqa: S311 - repeatable, not a secret
    shutil.copytree(step.before, output)
    codes = []
    for _ in range(MOST_KILLS):
        driver = Driver(step.pipeline, output, "serial", step.options)
        driver.wait_for_work()
        time.sleep(draw.uniform(0, 0.7 * step.seconds))
        driver.process.kill()
        codes.append(driver.process.wait())
        open_dataset(str(output))
        if is_finished(step, output):
            break
    # Once it is in dataset.json, the next retry would be another one.
    options = () if is_finished(step, output) else step.options
    driver = Driver(step.pipeline, output, "serial", options)
    assert driver.wait() == 2, driver.said.read_text()
    logger.info("killed: codes %s", codes)
    assert {*codes} <= {-signal.SIGKILL, 2}
    assert files_below(output) == step.after


def is_finished(step: Step, output: Path) -> bool:
    """Whether the edition is in dataset.json."""
    index = json.loads((output / "dataset.json").read_text())
    return len(index["editions"]) == step.num_editions
