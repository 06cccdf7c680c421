"""A store that fails at random: the same command, run again if need be, ends with equal bytes."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from serengeti_etl import retry
from serengeti_etl.cluster import SerialRunner
from serengeti_etl.config import SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.errors import Incomplete, RequestRefused
from tests.conftest import files_below, season_pipeline
from tests.fault_server import (
    BUCKET,
    EXPIRED_TOKEN,
    INTERNAL_ERROR,
    SLOW_DOWN,
    EarlyClose,
    Fault,
    FaultServer,
    FlippedByte,
    Refusal,
    Reset,
    Stall,
    Swapped,
    fault_server,
)
from tests.seeds import SEED
from tests.servers import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("impatient")]

MOST_RUNS = 40
"""Times that the same call is made before it counts as one that does not end: most draws take less
than six."""

_LABELS = "season/labels.json"
_BUSY = Refusal(429, "TooManyRequests")


@pytest.fixture(scope="module")
def expected(
    pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """Every file of the undisturbed run, rejects among them."""
    output = tmp_path_factory.mktemp("undisturbed")
    convert_season(pipeline, SerialRunner(), str(output))
    return files_below(output)


@pytest.fixture(scope="module")
def objects(season: Path) -> dict[str, bytes]:
    """The season as a bucket holds it."""
    return {f"season/{name}": content for name, content in files_below(season).items()}


@pytest.fixture
def server(objects: dict[str, bytes]) -> Iterator[FaultServer]:
    """A bucket with the season."""
    with fault_server(objects) as running:
        yield running


def photographs(server: FaultServer) -> list[str]:
    """Those that are long enough to be cut."""
    names = sorted(name for name in server.objects if name.startswith("season/images/"))
    return [name for name in names if len(server.objects[name]) > 1000]


def bursts(draw: random.Random, server: FaultServer) -> None:
    """Many objects, and perhaps the labels, are refused, some more often than a run asks."""
    for name in [*draw.sample(photographs(server), 12), _LABELS]:
        fault = draw.choice([SLOW_DOWN, INTERNAL_ERROR, _BUSY])
        server.fail(name, fault, times=draw.randint(0, retry.NUM_ATTEMPTS + 1))


def resets(draw: random.Random, server: FaultServer) -> None:
    """Connections are reset before the answer, or anywhere in it."""
    for name in [*draw.sample(photographs(server), 12), _LABELS]:
        fault = Reset(after=draw.choice([None, 0, draw.randrange(1000)]))
        server.fail(name, fault, times=draw.randint(0, retry.NUM_ATTEMPTS + 1))


def stalls(draw: random.Random, server: FaultServer) -> None:
    """Bodies stop for good, or for a time."""
    for name in draw.sample(photographs(server), 4):
        fault = Stall(after=draw.randrange(1000), seconds=draw.choice([None, 0.3]))
        server.fail(name, fault, times=draw.randint(1, 2))


def short_bodies(draw: random.Random, server: FaultServer) -> None:
    """Bodies end too soon, with their true length told."""
    for name in [*draw.sample(photographs(server), 12), _LABELS]:
        fault = EarlyClose(after=draw.randrange(1000))
        server.fail(name, fault, times=draw.randint(0, retry.NUM_ATTEMPTS + 1))


def damaged_once(draw: random.Random, server: FaultServer) -> None:
    """Photographs arrive with another byte, or cut without a word of their length; once each."""
    names = draw.sample(photographs(server), 12)
    for name in names[:-2]:
        server.fail(name, FlippedByte(draw.randrange(1000)), times=1)
    for name in names[-2:]:  # each of these ends a run: the client takes no such answer
        server.fail(name, EarlyClose(draw.randrange(1000), has_length=False), times=1)


def swapped_bodies(draw: random.Random, server: FaultServer) -> None:
    """Photographs arrive with the content of any other, whole, under their own ETag; once each."""
    names = photographs(server)
    for name in draw.sample(names, 12):
        other = draw.choice([one for one in names if one != name])
        server.fail(name, Swapped(other, has_own_etag=False), times=1)


def everything(draw: random.Random, server: FaultServer) -> None:
    """All of them at once."""
    for fault in (bursts, resets, stalls, short_bodies, damaged_once):
        fault(draw, server)


KINDS: tuple[Callable[[random.Random, FaultServer], None], ...] = (
    bursts,
    resets,
    stalls,
    short_bodies,
    damaged_once,
    swapped_bodies,
    everything,
    everything,
)


def bucket_pipeline(url: str) -> SeasonPipeline:
    """The pipeline of the tests, over the season in the bucket."""
    options = {"endpoint_url": url, "key": "k", "secret": "s"}
    return replace(season_pipeline(f"s3://{BUCKET}/season"), storage_options=options)


def run_until_done(url: str, output: Path) -> list[OSError | Incomplete]:
    """How each run ended before the one that finished; no file called dataset.json till then."""
    ends: list[OSError | Incomplete] = []
    for _ in range(MOST_RUNS):
        try:
            convert_season(bucket_pipeline(url), SerialRunner(), str(output))
        except (OSError, Incomplete) as error:
            assert not (output / "dataset.json").exists()
            ends.append(error)
        else:
            return ends
    pytest.fail(f"{MOST_RUNS} runs did not finish it: {ends}")


@pytest.mark.parametrize(
    "place", range(len(KINDS)), ids=lambda place: f"seed{SEED}-{place}-{KINDS[place].__name__}"
)
def test_random_faults_do_not_show(
    server: FaultServer, expected: dict[str, bytes], tmp_path: Path, place: int
) -> None:
    """Whatever fails on the way, for long or not: every byte, and the rejects, as undisturbed."""
    draw = random.Random(f"{SEED} {place}")  # noqa: S311 - repeatable faults, not a secret
    KINDS[place](draw, server)
    run_until_done(server.url, tmp_path / "out")
    assert files_below(tmp_path / "out") == expected
    assert server.num_faults > 0


@pytest.mark.parametrize("place", range(2), ids=lambda place: f"seed{SEED}-{place}")
def test_answers_mixed_up_in_a_shard_fail_it(
    server: FaultServer, expected: dict[str, bytes], tmp_path: Path, place: int
) -> None:
    """One photograph in place of another of its shard, with all its headers: never in a tar."""
    draw = random.Random(f"{SEED} mixed {place}")  # noqa: S311 - repeatable, not a secret
    shards = [[one for one in shard if one in server.objects] for shard in shards_of(expected)]
    name, other = draw.sample(draw.choice([shard for shard in shards if len(shard) > 1]), 2)
    server.fail(name, Swapped(other, has_own_etag=True), times=1)
    ends = run_until_done(server.url, tmp_path / "out")
    assert len(ends) == 1, (name, other)
    assert "mixes answers up" in str(ends[0])
    assert files_below(tmp_path / "out") == expected, (name, other)


def shards_of(files: dict[str, bytes]) -> list[list[str]]:
    """Keys of the photographs of each shard."""
    plan = pq.ParquetFile(BytesIO(files["plan/plan.parquet"]))
    groups = [plan.read_row_group(number) for number in range(plan.num_row_groups)]
    return [
        [f"season/images/{name}" for name in group["file_name"].to_pylist()] for group in groups
    ]


def test_heads_tell_answers_that_are_mixed_up_anywhere(
    server: FaultServer, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """With ``check_head`` any photograph in place of any other is seen; even two exchanged."""
    draw = random.Random(f"{SEED} heads")  # noqa: S311 - repeatable, not a secret
    # What the rules exclude is never asked for.
    asked_for = {one for shard in shards_of(expected) for one in shard}
    names = draw.sample([one for one in photographs(server) if one in asked_for], 12)
    for name, other in zip(names, [*names[1:], names[0]], strict=True):
        server.fail(name, Swapped(other, has_own_etag=True), times=1)
    options = {"endpoint_url": server.url, "key": "k", "secret": "s", "check_head": True}
    careful = replace(season_pipeline(f"s3://{BUCKET}/season"), storage_options=options)
    convert_season(careful, SerialRunner(), str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == expected, names
    assert server.num_faults == len(names)


def after(num_requests: int, action: Callable[[], object]) -> Callable[[], None]:
    """Does ``action`` once, with the request of that number."""
    numbers = iter(range(10**9))

    def count() -> None:
        if next(numbers) == num_requests:
            action()

    return count


def test_expired_credentials_blame_no_photograph(
    server: FaultServer, expected: dict[str, bytes], tmp_path: Path
) -> None:
    """From a random request on all are refused, for longer than a run; then the same call ends."""
    draw = random.Random(f"{SEED} expired")  # noqa: S311 - repeatable, not a secret
    names: list[tuple[str, Fault]] = [(name, EXPIRED_TOKEN) for name in ["", *server.objects]]

    def expire() -> None:
        for name, fault in names:
            server.fail(name, fault)

    num_requests = draw.randrange(len(photographs(server)))
    server.on_request = after(num_requests, expire)
    for _ in range(2):
        with pytest.raises(RequestRefused, match="credentials are not, or no longer, valid"):
            convert_season(bucket_pipeline(server.url), SerialRunner(), str(tmp_path / "out"))
    for name, _ in names:
        server.heal(name)
    assert run_until_done(server.url, tmp_path / "out") == [], (SEED, num_requests)
    assert files_below(tmp_path / "out") == expected, (SEED, num_requests)


@pytest.mark.parametrize("place", range(2), ids=lambda place: f"seed{SEED}-{place}")
def test_a_store_that_is_away_comes_back(
    objects: dict[str, bytes], expected: dict[str, bytes], tmp_path: Path, place: int
) -> None:
    """Refused connections for seconds, from a random request on: runs fail, then one finishes."""
    draw = random.Random(f"{SEED} away {place}")  # noqa: S311 - repeatable, not a secret
    running, leave, port = ExitStack(), threading.Event(), free_port()
    server = running.enter_context(fault_server(objects, port))

    def hold_until_stopped() -> None:
        leave.set()
        server.wait_for_the_end(30)

    def stop_when_told() -> None:
        leave.wait(30)
        running.close()

    server.on_request = after(draw.randrange(len(photographs(server))), hold_until_stopped)
    stopping = threading.Thread(target=stop_when_told)
    stopping.start()
    try:
        for _ in range(2):
            with pytest.raises((OSError, Incomplete)):
                convert_season(bucket_pipeline(server.url), SerialRunner(), str(tmp_path / "out"))
            time.sleep(draw.uniform(0, 2))
    finally:
        leave.set()
        stopping.join()
    with fault_server(objects, port):
        assert run_until_done(server.url, tmp_path / "out") == []
    assert files_below(tmp_path / "out") == expected
