"""An output bucket that fails at random: the same command, run again if need be, ends equal."""

import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from serengeti_etl import lease, retry
from serengeti_etl.buckets import bucket, client
from serengeti_etl.buckets.bucket import close_buckets
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import ResizeSettings, SeasonPipeline, ShardSettings
from serengeti_etl.convert.season import convert_season
from serengeti_etl.errors import Incomplete, OutputHeld
from serengeti_etl.storage import Store
from tests.conftest import files_below, season_pipeline
from tests.fault_proxy import fault_proxy
from tests.fault_server import (
    INTERNAL_ERROR,
    SLOW_DOWN,
    Fault,
    FaultServer,
    LostAnswer,
    Refusal,
    Request,
    Reset,
    Silence,
)
from tests.seeds import SEED

pytestmark = pytest.mark.chaos

logger = logging.getLogger(__name__)

MOST_FAULTS = 60
"""After so many the store is well again, so that a run can end."""

MOST_RUNS = 2 * MOST_FAULTS + 2
"""Times that the same call is made before it counts as one that does not end: each fault may end a
run, after which the lease may be found held."""

_REFUSALS = (SLOW_DOWN, INTERNAL_ERROR, Refusal(429, "TooManyRequests"))
_PART_NUM_BYTES = 5 * 1024 * 1024  # S3 takes no smaller ones

Choose = Callable[[Request], Fault | None]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Silence is noticed after a second, the next try comes at once, and shards come in parts."""
    monkeypatch.setitem(client._TIMES, "read_timeout", "1s")
    monkeypatch.setattr(retry, "_LONGEST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(bucket, "_PART_NUM_BYTES", _PART_NUM_BYTES)
    # A run here does not end its process, whose lease would be waited for.
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1.0)
    monkeypatch.setitem(lease._SETTLE_SECONDS, "bucket", (0.02, 0.05))
    yield
    close_buckets()


@dataclass(frozen=True, kw_only=True)
class Undisturbed:
    """A conversion when nothing fails.

    Attributes:
        pipeline: what it converts.
        files: what it makes, in a folder.
    """

    pipeline: SeasonPipeline
    files: dict[str, bytes]

    @staticmethod
    def of(pipeline: SeasonPipeline, output: Path) -> "Undisturbed":
        """Of ``pipeline``, made now."""
        convert_season(pipeline, SerialRunner(), str(output))
        return Undisturbed(pipeline=pipeline, files=files_below(output))


@pytest.fixture(scope="module")
def small(pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The drawn season: each file goes to the bucket in one piece."""
    return Undisturbed.of(pipeline, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(season: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Noise in place of the photographs: each shard goes to the bucket in two parts or more."""
    folder = tmp_path_factory.mktemp("large")
    shutil.copytree(season, folder / "season")
    draw = np.random.default_rng(1)
    for path in sorted((folder / "season" / "images").rglob("*")):
        if path.is_file() and path.stat().st_size > 1000:
            noise_HWC = draw.integers(0, 256, (600, 800, 3), np.uint8)
            path.write_bytes(simplejpeg.encode_jpeg(noise_HWC, 95, colorsubsampling="444"))
    pipeline = replace(
        season_pipeline(str(folder / "season")),
        resize=ResizeSettings(size="800", quality=95, subsampling="4:4:4"),
        shards=ShardSettings(max_samples=12),
    )
    made = Undisturbed.of(pipeline, folder / "undisturbed")
    tars = [name for name in made.files if name.endswith(".tar")]
    assert any(len(made.files[name]) > _PART_NUM_BYTES for name in tars)
    return made


def seldom(draw: random.Random, most: int) -> Callable[[], bool]:
    """True at a random one of at most ``most`` calls, again and again: never by luck not at all."""
    num_left = draw.randint(1, most)

    def is_now() -> bool:
        nonlocal num_left
        num_left -= 1
        if num_left:
            return False
        num_left = draw.randint(1, most)
        return True

    return is_now


def bursts(draw: random.Random) -> Choose:
    """Refusals, one after the other, sometimes more than a request is tried."""
    begins = seldom(draw, 33)
    num_left = 0

    def choose(_: Request) -> Fault | None:
        nonlocal num_left
        if num_left == 0 and begins():
            num_left = draw.randint(2, retry.NUM_ATTEMPTS + 2)
        num_left = max(0, num_left - 1)
        return draw.choice(_REFUSALS) if num_left else None

    return choose


def resets(draw: random.Random) -> Choose:
    """The connection is reset before anything is done, or in the middle of the answer."""
    is_now = seldom(draw, 13)

    def choose(_: Request) -> Fault | None:
        return Reset(draw.choice([None, 0, 20])) if is_now() else None

    return choose


def silences(draw: random.Random) -> Choose:
    """No answer comes."""
    is_now = seldom(draw, 40)
    return lambda _: Silence() if is_now() else None


def lost_answers(draw: random.Random) -> Choose:
    """What changes the bucket is done, and not answered."""
    is_now = seldom(draw, 7)

    def choose(request: Request) -> Fault | None:
        is_change = request.method in ("PUT", "POST", "DELETE")
        return LostAnswer() if is_change and is_now() else None

    return choose


def stubborn_names(draw: random.Random) -> Choose:
    """Some objects cannot be had or put, for longer than it is tried."""
    is_stubborn = seldom(draw, 12)
    num_left: dict[str, int] = {}

    def choose(request: Request) -> Fault | None:
        if request.key not in num_left:
            num_tries = retry.NUM_ATTEMPTS + draw.randint(0, 5)
            num_left[request.key] = num_tries if is_stubborn() else 0
        num_left[request.key] -= 1
        return draw.choice(_REFUSALS) if num_left[request.key] >= 0 else None

    return choose


def refused_parts(draw: random.Random) -> Choose:
    """Parts of shards, and the calls that begin and end them, are refused or lost."""
    faults = (*_REFUSALS, Reset(), LostAnswer())
    begins = seldom(draw, 7)
    num_left = 0

    def choose(request: Request) -> Fault | None:
        nonlocal num_left
        if "partNumber" not in request.query and request.method != "POST":
            return None
        if num_left == 0 and begins():
            num_left = 1 + draw.choice([1, 2, 3 * retry.NUM_ATTEMPTS])
        num_left = max(0, num_left - 1)
        return draw.choice(faults) if num_left else None

    return choose


def everything(draw: random.Random) -> Choose:
    """All of them."""
    kinds = [kind(draw) for kind in (bursts, resets, silences, lost_answers, stubborn_names)]

    def choose(request: Request) -> Fault | None:
        kind = draw.choice(kinds)
        return kind(request)

    return choose


KINDS: tuple[Callable[[random.Random], Choose], ...] = (
    bursts,
    resets,
    silences,
    lost_answers,
    stubborn_names,
    everything,
)


def until_well(choose: Choose, server: FaultServer) -> Choose:
    """The same, for the first faults alone."""
    return lambda request: choose(request) if server.num_faults < MOST_FAULTS else None


def contents_of(url: str) -> dict[str, bytes]:
    """Every object of the dataset by its name."""
    store = Store(url=url)
    return {name: store.read(name) for name in store.find("")}


def run_until_done(pipeline: SeasonPipeline, url: str) -> list[OSError | Incomplete]:
    """How each run ended before the one that finished."""
    ends: list[OSError | Incomplete] = []
    for _ in range(MOST_RUNS):
        try:
            convert_season(pipeline, SerialRunner(), url)
        except OutputHeld as held:  # by the run before, which could not release it
            assert "is being written by" in str(held)  # noqa: PT017 - one of two that it may say
            time.sleep(lease.LIFE_SECONDS)
        except (OSError, Incomplete) as error:
            ends.append(error)
        else:
            return ends
    pytest.fail(f"{MOST_RUNS} runs did not finish it: {ends}")


@pytest.fixture
def url(make_bucket: Callable[[str], str]) -> str:
    """An empty place in a real bucket."""
    return f"{make_bucket('chaos')}/out"


@pytest.fixture
def server(s3_endpoint: str, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """The proxy that all requests to the bucket go through, which is there already."""
    del url
    with fault_proxy(s3_endpoint) as running, monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", running.url)
        close_buckets()
        yield running


def check(undisturbed: Undisturbed, server: FaultServer, url: str, choose: Choose) -> None:
    """No byte differs, whatever goes wrong."""
    server.choose = until_well(choose, server)
    ends = run_until_done(undisturbed.pipeline, url)
    logger.info("%d faults, ends %s", server.num_faults, ends)
    server.choose = lambda _: None
    assert contents_of(url) == undisturbed.files, ends
    assert server.num_faults > 2


@pytest.mark.parametrize(
    "place", range(len(KINDS)), ids=lambda place: f"seed{SEED}-{place}-{KINDS[place].__name__}"
)
def test_faults_of_the_output_do_not_show(
    small: Undisturbed, server: FaultServer, url: str, place: int
) -> None:
    """Whatever fails when plan, shards, rejects, index or lease are written: no byte differs."""
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - repeatable faults, not a secret
    check(small, server, url, KINDS[place](draw))


@pytest.mark.parametrize("place", range(1), ids=lambda place: f"seed{SEED}-{place}")
def test_lost_parts_do_not_show(
    large: Undisturbed, server: FaultServer, url: str, place: int
) -> None:
    """Parts of a shard, or what begins and ends them, are refused or lost: no byte differs."""
    draw = random.Random(f"{SEED} parts {place}")  # noqa: S311 - repeatable, not a secret
    check(large, server, url, refused_parts(draw))
    assert any("partNumber" in request.query for request in server.requests)
