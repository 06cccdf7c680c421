"""A disk that fills up: a clear end with nothing half there; with more room the rest is made."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from tests.chaos.drivers import Driver, small_shards, write_pipeline
from tests.conftest import files_below
from tests.seeds import SEED

pytestmark = pytest.mark.chaos

NUM_SIZES = 3

_BLOCK_NUM_BYTES = 4096

Remount = Callable[[str], None]


@pytest.fixture(scope="module")
def expected(season: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of the undisturbed run."""
    output = tmp_path_factory.mktemp("undisturbed")
    convert_season(small_shards(str(season)), SerialRunner(), str(output))
    return files_below(output)


@pytest.fixture
def pipeline_file(season: Path, tmp_path: Path) -> Path:
    """The pipeline; its process tries again without waiting."""
    file = write_pipeline(tmp_path, season)
    with file.open("a") as lines:
        lines.write("from serengeti_etl import retry\nretry._LONGEST_WAIT_SECONDS = 0.01\n")
    return file


def num_bytes_of(files: dict[str, bytes]) -> int:
    """What they take on a disk that gives whole blocks."""
    return sum(-(-len(data) // _BLOCK_NUM_BYTES) * _BLOCK_NUM_BYTES for data in files.values())


@pytest.mark.parametrize("place", range(NUM_SIZES), ids=lambda place: f"seed{SEED}-{place}")
def test_an_output_that_fills_up_is_continued(
    disk: tuple[Path, Remount], pipeline_file: Path, expected: dict[str, bytes], place: int
) -> None:
    """Exit 3 and the reason; what is there is whole; the same command in more room ends equal."""
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - repeatable sizes, not a secret
    folder, remount = disk
    share = draw.uniform(place, place + 1) / NUM_SIZES
    remount(f"size={_BLOCK_NUM_BYTES * 4 + int(share * num_bytes_of(expected))}")
    output = folder / "out"
    driver = Driver(pipeline_file, output, "serial")
    assert driver.wait() == 3, (share, driver.said.read_text())
    said = driver.said.read_text()
    assert "No space left on device" in said, share
    assert "Traceback" not in said, share
    there = files_below(output)
    assert "dataset.json" not in there, share
    assert there.items() <= expected.items(), (share, there.keys() - expected.keys())
    remount(f"size={2 * num_bytes_of(expected) + 2**20}")
    driver = Driver(pipeline_file, output, "serial")
    assert driver.wait() == 2, (share, driver.said.read_text())
    assert files_below(output) == expected, share


@pytest.mark.parametrize("num_blocks", [1, 6, 8])
def test_a_full_scratch_folder_is_told(
    disk: tuple[Path, Remount], pipeline_file: Path, expected: dict[str, bytes], num_blocks: int
) -> None:
    """Exit 3 and the reason; the same command with room there ends equal."""
    folder, remount = disk
    remount(f"size={num_blocks * _BLOCK_NUM_BYTES}")
    output = pipeline_file.with_name("out")
    driver = Driver(pipeline_file, output, "serial", TMPDIR=str(folder))
    assert driver.wait() == 3, driver.said.read_text()
    said = driver.said.read_text()
    assert "space" in said.lower()
    assert "Traceback" not in said
    assert not (output / "dataset.json").exists()
    driver = Driver(pipeline_file, output, "serial")
    assert driver.wait() == 2, driver.said.read_text()
    assert files_below(output) == expected
