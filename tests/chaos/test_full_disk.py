"""A disk that fills up: a clear end with nothing half there; with more room the rest is made."""

import os
import random
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from serengeti_etl.cluster import SerialRunner
from serengeti_etl.convert.season import convert_season
from tests.chaos.drivers import Driver, small_shards, write_pipeline
from tests.conftest import files_below

pytestmark = pytest.mark.chaos

NUM_SIZES = 3
SEED: int | None = None
"""Set it to the number in a failed test's name to meet the same sizes again."""

_SEED = secrets.randbelow(10**6) if SEED is None else SEED
_BLOCK_NUM_BYTES = 4096

Resize = Callable[[int], None]


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


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Resize]]:
    """A file system of its own, of a megabyte, and a function that sets its size in bytes."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root to be mounted")
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(num_bytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={num_bytes}", folder], check=True)

    with ExitStack() as stack:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"no small file system can be mounted: {made.stderr}")
        stack.callback(lambda: subprocess.run(["umount", "-l", folder], check=True))
        yield folder, resize


def num_bytes_of(files: dict[str, bytes]) -> int:
    """What they take on a disk that gives whole blocks."""
    return sum(-(-len(data) // _BLOCK_NUM_BYTES) * _BLOCK_NUM_BYTES for data in files.values())


@pytest.mark.parametrize("place", range(NUM_SIZES), ids=lambda place: f"seed{_SEED}-{place}")
def test_an_output_that_fills_up_is_continued(
    disk: tuple[Path, Resize], pipeline_file: Path, expected: dict[str, bytes], place: int
) -> None:
    """Exit 3 and the reason; what is there is whole; the same command in more room ends equal."""
    draw = random.Random(f"{_SEED} {place}")  # noqa: S311 - repeatable sizes, not a secret
    folder, resize = disk
    share = draw.uniform(place, place + 1) / NUM_SIZES
    resize(_BLOCK_NUM_BYTES * 4 + int(share * num_bytes_of(expected)))
    output = folder / "out"
    driver = Driver(pipeline_file, output, "serial")
    assert driver.wait() == 3, (share, driver.said.read_text())
    said = driver.said.read_text()
    assert "No space left on device" in said, share
    assert "Traceback" not in said, share
    there = files_below(output)
    assert "dataset.json" not in there, share
    assert there.items() <= expected.items(), (share, there.keys() - expected.keys())
    resize(2 * num_bytes_of(expected) + 2**20)
    driver = Driver(pipeline_file, output, "serial")
    assert driver.wait() == 2, (share, driver.said.read_text())
    assert files_below(output) == expected, share


@pytest.mark.parametrize("num_blocks", [1, 6, 8])
def test_a_full_scratch_folder_is_told(
    disk: tuple[Path, Resize], pipeline_file: Path, expected: dict[str, bytes], num_blocks: int
) -> None:
    """Exit 3 and the reason; the same command with room there ends equal."""
    folder, resize = disk
    resize(num_blocks * _BLOCK_NUM_BYTES)
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
