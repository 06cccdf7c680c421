"""SIGKILL of a driver that adds to a dataset: the same command ends with equal bytes.

Set NUM_ROUNDS to 30 for a long run.
"""

import json
import logging
import random
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
from tests.seeds import SEED

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.chaos

NUM_ROUNDS = 6
MOST_KILLS = 3


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


def prepared(place: Path, growing: GrowingSeason, change: Callable[[], None]) -> Path:
    """The file of a pipeline whose dataset is at ``place / "before"``, where all is changed now."""
    convert_season(small_shards(str(growing.folder)), SerialRunner(), str(place / "before"))
    change()
    return write_pipeline(place, growing.folder)


def undisturbed(place: Path, pipeline: Path, options: tuple[str, ...]) -> Step:
    """What a driver adds to the dataset at ``place / "before"`` when nobody kills it."""
    shutil.copytree(place / "before", place / "after")
    driver = Driver(pipeline, place / "after", "serial", options)
    driver.wait_for_work()
    started = time.monotonic()
    assert driver.wait() == 2, driver.said.read_text()
    seconds = time.monotonic() - started
    assert verify_dataset(str(place / "after"), SerialRunner()).problems == ()
    return Step(
        pipeline=pipeline,
        before=place / "before",
        after=files_below(place / "after"),
        options=options,
        seconds=seconds,
        num_editions=len(open_dataset(str(place / "after")).info.editions),
    )


@pytest.fixture(scope="module")
def steps(season: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    """A growth by half, and a retry that recovers one of the rejects."""
    place = tmp_path_factory.mktemp("growth")
    half = GrowingSeason(season, place / "source")
    half.take(lambda seq_id: sum(seq_id.encode()) % 2 == 0)
    growth = undisturbed(place, prepared(place, half, half.take_all), ())
    place = tmp_path_factory.mktemp("retry")
    whole = GrowingSeason(season, place / "source")
    whole.take_all()
    names = [image["file_name"] for image in whole.labels["images"]]
    missing = next(name for name in names if not (whole.folder / "images" / name).exists())
    retry = undisturbed(place, prepared(place, whole, lambda: whole.mend(missing)), RETRY)
    assert growth.num_editions == retry.num_editions == 2
    return {"growth": growth, "retry": retry}


@pytest.mark.parametrize("place", range(NUM_ROUNDS), ids=lambda place: f"seed{SEED}-{place}")
@pytest.mark.parametrize("name", ["growth", "retry"])
def test_a_killed_edition_is_finished_by_the_same_command(
    steps: dict[str, Step], tmp_path: Path, name: str, place: int
) -> None:
    """Drivers die at random moments, the dataset of before opens each time, and no byte differs."""
    step, output = steps[name], tmp_path / "out"
    draw = random.Random(f"{SEED} {name} {place}")  # noqa: S311 - repeatable, not a secret
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
