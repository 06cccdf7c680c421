"""What tests share: a small drawn season, the real photographs where present, a real S3 server."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from serengeti_etl import retry
from serengeti_etl.buckets import client
from serengeti_etl.buckets.bucket import close_buckets
from serengeti_etl.config import ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.label_config import FractionSplit
from tests.browser import Browser, open_browser
from tests.seeds import SEED
from tests.servers import S3_CREDENTIALS, s3_server

# Several processes share the cores: teams of threads that spin for each other would take most of
# the time. Before torch is imported; commands that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


# How long an example takes says nothing of the code where several tests share the machine. Under CI
# examples are the same each time, as Hypothesis has it there; elsewhere they are others each time.
settings.register_profile(
    "busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")


def pytest_report_header() -> str:
    """The seed, drawn here before pytest-xdist begins its processes."""
    return f"faults and kills at random: TEST_SEED={SEED}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real photographs and label files; the test is skipped where there is none."""
    if not SHARED.is_dir():
        pytest.skip(f"the real photographs are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def season(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small drawn season with its broken files: about 50 photographs at 6 sites. Read only."""
    folder = tmp_path_factory.mktemp("season")
    from serengeti_etl.sample import SampleSettings, draw_season

    settings = SampleSettings(width=256, height=192, num_sequences=24, num_sites=6)
    draw_season(folder, settings, num_processes=1)
    return folder


@pytest.fixture(scope="session")
def pipeline(season: Path) -> SeasonPipeline:
    """A pipeline over the drawn season: several small shards in each split."""
    return season_pipeline(str(season))


def season_pipeline(source: str) -> SeasonPipeline:
    """The pipeline of the tests for a drawn season at ``source``."""
    return SeasonPipeline(
        name="drawn",
        source=source,
        labels="labels.json",
        images="images",
        split=FractionSplit(val_fraction=0.34, seed=1),
        resize=ResizeSettings(size="96"),
        shards=ShardSettings(max_samples=8),
        max_reject_share=0.3,
    )


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of a real S3 server on loopback, for the whole session."""
    with s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Headless Chromium, of one test: in the meantime asyncio is taken in the main thread."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stalls are noticed after a second, and the next try comes at once."""
    monkeypatch.setitem(client._TIMES, "read_timeout", "1s")
    monkeypatch.setattr(retry, "_LONGEST_WAIT_SECONDS", 0.01)
    close_buckets()
    yield
    close_buckets()


@pytest.fixture
def make_bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that makes an empty bucket and returns its url; credentials are set."""
    for name, value in (S3_CREDENTIALS | {"AWS_ENDPOINT_URL": s3_endpoint}).items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    close_buckets()

    def make(name: str) -> str:
        bucket = f"{name}-{secrets.token_hex(4)}"
        s3fs.S3FileSystem().mkdir(bucket)
        return f"s3://{bucket}"

    return make


def files_below(folder: Path) -> dict[str, bytes]:
    """Content of every file below ``folder`` by its relative name, but what is told of runs.

    Reports and the folder ``run`` tell of a conversion when it was and how long it took: they are
    no part of its dataset (see ``dataset.sums``).
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "report.html"]
    names = {str(path.relative_to(folder)): path for path in sorted(paths)}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith("run/")}


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Path]:
    """A function that gives a folder of that name which does not exist yet."""

    def path(name: str) -> Path:
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        return tmp_path / name

    return path


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system of its own, of a megabyte, and a function that mounts it otherwise."""
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root to be mounted")
    folder = tmp_path / "disk"
    folder.mkdir()

    def remount(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)

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
        yield folder, remount
