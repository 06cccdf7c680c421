"""Runners: the same outcomes serially and on Dask; faults become outcomes, mistakes are raised."""

import dataclasses
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import KilledWorker, LocalCluster
from distributed.client import FutureCancelledError

from serengeti_etl.cluster import DaskRunner, Runner, SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec
from serengeti_etl.errors import ConfigError, ShardError
from tests.hosts import wait_for

SPEC = ClusterSpec(
    cluster="distributed:LocalCluster",
    options={"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"},
)


@dataclass(frozen=True)
class Number:
    """A task that is a number."""

    value: int

    @property
    def key(self) -> str:
        """Names the task."""
        return f"number-{self.value}"


def half(task: Number) -> int:
    """Half of an even number; odd ones are faults, 1000 is a mistake, 666 kills the worker."""
    if task.value == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    if task.value == 1000:
        raise ZeroDivisionError("a mistake")
    if task.value % 2:
        raise ConnectionError(f"{task.value} is odd")
    return task.value // 2


def outcomes(runner: Runner, values: list[int]) -> dict[int, object]:
    found = runner.map(half, (Number(value) for value in values))
    return {one.task.value: one.error or one.result for one in found}


@pytest.fixture(scope="module")
def dask_runner() -> object:
    """A runner on one spawned worker."""
    with open_runner(SPEC) as runner:
        yield runner


@pytest.mark.parametrize("kind", ["serial", "dask"])
def test_results_and_faults_are_outcomes(kind: str, request: pytest.FixtureRequest) -> None:
    """Every task has one outcome: its result, or the fault that may pass."""
    runner = SerialRunner() if kind == "serial" else request.getfixturevalue("dask_runner")
    found = outcomes(runner, list(range(30)))
    assert len(found) == 30
    assert [found[value] for value in range(0, 30, 2)] == list(range(15))
    assert all(isinstance(found[value], ConnectionError) for value in range(1, 30, 2))


@pytest.mark.parametrize("kind", ["serial", "dask"])
def test_mistakes_are_raised(kind: str, request: pytest.FixtureRequest) -> None:
    """What running again would not mend ends the run."""
    runner = SerialRunner() if kind == "serial" else request.getfixturevalue("dask_runner")
    with pytest.raises(ZeroDivisionError):
        outcomes(runner, [2, 1000, 4])


@pytest.mark.slow
def test_a_task_that_kills_its_worker_is_an_outcome(dask_runner: Runner) -> None:
    """A worker that dies each time is named; the other tasks finish."""
    found = outcomes(dask_runner, [666, 2, 4])
    assert (found[2], found[4]) == (1, 2)
    assert "its worker died each time" in str(found[666])


class Lost:
    """A future that has finished, but whose result can no longer be had."""

    status = "finished"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def result(self) -> None:
        """Raises, as Dask does when scheduler or worker died since."""
        raise self.error


WORKER: Any = SimpleNamespace(address="tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FutureCancelledError("number-1", "scheduler-connection-lost"), "the cluster gave it up"),
        (KilledWorker("number-1", WORKER, 0), "its worker died"),
    ],
    ids=["scheduler", "worker"],
)
def test_a_result_that_died_before_it_was_fetched_is_a_fault(
    error: Exception, message: str
) -> None:
    """It may pass: the shard has failed, and the driver goes on to say so."""
    outcome = DaskRunner._outcome(Number(1), Lost(error))
    assert isinstance(outcome.error, ShardError)
    assert f"number-1: {message}" in str(outcome.error)


def test_a_running_scheduler_is_reached_by_its_address() -> None:
    """``tcp://…`` runs tasks on a cluster that somebody else started."""
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(processes=False, **options) as cluster,
        open_runner(cluster.scheduler_address) as runner,
    ):
        assert outcomes(runner, [10]) == {10: 5}


def test_the_window_bounds_what_is_in_flight(dask_runner: DaskRunner) -> None:
    """Tasks are taken from the iterator as others finish, not all at once."""
    # One that a test before has killed may be counted beside the one that follows it.
    wait_for(lambda: len(dask_runner.client.nthreads()) == 1, "one worker")
    taken = 0

    def tasks() -> object:
        nonlocal taken
        for value in range(0, 40, 2):
            taken += 1
            yield Number(value)

    found = dask_runner.map(half, tasks())  # type: ignore[arg-type]
    ahead = [taken - received for received, _ in enumerate(found)]
    assert len(ahead) == 20
    assert max(ahead) <= 3  # one worker with one thread


def test_the_environment_is_left_as_it_was() -> None:
    """What Dask sets for its workers does not stay behind and slow the rest of the process."""
    before = dict(os.environ)
    with open_runner(SPEC) as runner:
        assert outcomes(runner, [10]) == {10: 5}
    assert dict(os.environ) == before


def test_dask_s_configuration_is_left_as_it_was() -> None:
    """A process that opens its first cluster can open a second: Dask's own defaults are there."""
    code = (
        "import sys\n"
        "from serengeti_etl import ClusterSpec, open_runner\n"
        "options = {'n_workers': 0, 'dashboard_address': '127.0.0.1:0'}\n"
        "spec = ClusterSpec(cluster='distributed:LocalCluster', options=options)\n"
        "assert 'distributed' not in sys.modules\n"
        "for _ in range(2):\n"
        "    with open_runner(spec) as runner:\n"
        "        print(runner.client.status)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert shown.stdout.split() == ["running"] * 2, shown.stderr


def test_a_cluster_that_cannot_be_had_is_a_config_error() -> None:
    """An unknown class and an address where nothing listens say so."""
    with (
        pytest.raises(ConfigError, match="cannot be imported"),
        open_runner(ClusterSpec(cluster="no.such:Cluster")),
    ):
        pass
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1"),
        open_runner("tcp://127.0.0.1:1"),
    ):
        pass


def slowly(task: Number) -> int:
    """The number, after a while."""
    time.sleep(0.1)
    return task.value


def test_an_adaptive_cluster_begins_with_no_worker() -> None:
    """Workers are asked for when tasks wait, and the window is for those that may come."""
    spec = ClusterSpec(
        cluster="distributed:LocalCluster",
        options={"n_workers": 0, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"},
        adaptive=(0, 2),
    )
    taken = 0

    def tasks() -> Iterator[Number]:
        nonlocal taken
        for value in range(8):
            taken += 1
            yield Number(value)

    with open_runner(spec) as runner:
        assert isinstance(runner, DaskRunner)
        assert runner.client.nthreads() == {}
        found = runner.map(slowly, tasks())
        first = next(found)
        assert taken == 6  # three for each of two workers
        assert 1 <= len(runner.client.nthreads()) <= 2  # while tasks wait: soon after, none
        assert {first.result, *(one.result for one in found)} == set(range(8))


def test_the_window_grows_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that come while it works are kept busy too."""
    monkeypatch.setattr("serengeti_etl.cluster.RECOUNT_SECONDS", 0.0)
    taken = 0

    def tasks() -> Iterator[Number]:
        nonlocal taken
        for value in range(40):
            taken += 1
            yield Number(value)

    with LocalCluster(**SPEC.options) as cluster, open_runner(cluster.scheduler_address) as runner:
        assert isinstance(runner, DaskRunner)
        found = runner.map(slowly, tasks())
        next(found)
        assert taken <= 4
        cluster.scale(3)
        runner.client.wait_for_workers(3)
        ahead = [taken - received for received, _ in enumerate(found, start=1)]
        assert len(ahead) == 39
        assert max(ahead) == 9


def test_a_secure_cluster_speaks_tls_only(tmp_path: Path) -> None:
    """Its address is ``tls://…``; who lacks the keys is refused, who has them is not."""
    import dask

    with open_runner(dataclasses.replace(SPEC, is_secure=True)) as runner:
        assert isinstance(runner, DaskRunner)
        assert outcomes(runner, [10]) == {10: 5}
        address, keys = runner.client.scheduler.address, runner.client.security
        assert address.startswith("tls://127.0.0.1:")
        assert all(worker.startswith("tls://") for worker in runner.client.nthreads())
        with pytest.raises(ConfigError, match=r"distributed\.comm\.tls"), open_runner(address):
            pass
        for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
            (tmp_path / name).write_text(getattr(keys, name))
        settings = {
            "distributed.comm.tls.ca-file": str(tmp_path / "tls_ca_file"),
            "distributed.comm.tls.client.cert": str(tmp_path / "tls_client_cert"),
            "distributed.comm.tls.client.key": str(tmp_path / "tls_client_key"),
        }
        with dask.config.set(settings), open_runner(address) as second:
            assert outcomes(second, [12]) == {12: 6}


def test_a_cluster_that_takes_no_keys_is_refused() -> None:
    """``is_secure`` for a class without ``security`` says so, and does not run in the open."""
    spec = ClusterSpec(cluster="tests.test_cluster:Number", options={"value": 1}, is_secure=True)
    with pytest.raises(ConfigError, match=r"cannot be built: .*'security'"), open_runner(spec):
        pass


def versions_by_process() -> dict[str, str]:
    """As on hosts that were installed differently: workers have other code than the driver."""
    is_driver = multiprocessing.parent_process() is None
    return {"code": "aaaa" if is_driver else "bbbb", "Python": "3"}


def test_workers_unlike_the_driver_are_refused() -> None:
    """The error names the worker, and what differs with both versions, nothing else."""
    with (
        pytest.raises(ConfigError, match="the cluster is not like this process") as refused,
        open_runner(SPEC, versions_by_process),
    ):
        pass
    assert re.search(r"tcp://127\.0\.0\.1:\d+ has code bbbb \(here aaaa\)\.", str(refused.value))
    assert "scheduler has" not in str(refused.value)


VERSION_FILE = "SERENGETI_TEST_VERSION_FILE"


def versions_of_the_day() -> dict[str, str]:
    """Versions that a test changes under way: those in a file."""
    version = Path(os.environ[VERSION_FILE]).read_text()
    if version == "none":
        raise ModuleNotFoundError("No module named 'pyvips'")
    return {"code": version, "Python": "3"}


@pytest.fixture
def version_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What ``versions_of_the_day`` reads, here and in workers that are started."""
    monkeypatch.setenv(VERSION_FILE, str(tmp_path / "version"))
    (tmp_path / "version").write_text("1")
    return tmp_path / "version"


def process_of(task: Number) -> int:  # noqa: ARG001 - what a runner calls
    """The process that runs the task."""
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "reason"),
    [("2", "code 2 (here 1)"), ("none", "code unknown (here 1), Python unknown (here 3)")],
)
def test_a_later_worker_unlike_the_driver_is_sent_away(
    version: str, reason: str, version_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs no task and leaves, the driver's log says why, and the others work on."""
    with LocalCluster(**SPEC.options) as cluster:
        with open_runner(cluster.scheduler_address, versions_of_the_day) as runner:
            assert isinstance(runner, DaskRunner)
            (worker,) = runner.client.nthreads()
            version_file.write_text(version)
            cluster.scale(2)
            found = list(runner.map(process_of, (Number(value) for value in range(100))))
            assert len({one.result for one in found}) == 1
            wait_for(lambda: "was refused" in caplog.text, "the driver's log")
            assert f"it has {reason}" in caplog.text
            wait_for(lambda: list(runner.client.nthreads()) == [worker], "the other has left")
            events = runner.client.get_events("serengeti-etl-refused")
            assert [event["reason"] for _, event in events] == [reason]
            assert "serengeti-etl-likeness" in cluster.scheduler.worker_plugins
        # What this driver wanted does not turn away the workers of the next.
        plugins = cluster.scheduler.worker_plugins
        wait_for(lambda: "serengeti-etl-likeness" not in plugins, "it is forgotten")


def test_workers_that_cannot_tell_their_versions_are_refused(version_file: Path) -> None:
    """A library or the package that is missing there is named."""
    with LocalCluster(**SPEC.options) as cluster:
        version_file.write_text("none")
        with (
            pytest.raises(ConfigError, match=r"cannot tell its versions: .*'pyvips'"),
            open_runner(cluster.scheduler_address, versions_of_workers),
        ):
            pass


def versions_of_workers() -> dict[str, str]:
    """The driver's are known; those of workers are ``versions_of_the_day``."""
    return {"code": "1"} if multiprocessing.parent_process() is None else versions_of_the_day()


def profilers_at_work(dask_worker: Any = None) -> list[str]:
    """Names of the samplers of stacks that run on a worker."""
    callbacks = dask_worker.periodic_callbacks
    return [name for name in callbacks if "profile" in name and callbacks[name].is_running()]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python 3.12 does not hang at it")
def test_no_worker_samples_stacks_where_python_hangs_at_it() -> None:
    """On Python 3.11 the profilers of a running cluster stop, those of later workers too."""
    with LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as cluster:
        with cluster.get_client() as client:
            assert client.run(profilers_at_work) != {}
            assert all(found for found in client.run(profilers_at_work).values())
        with open_runner(cluster.scheduler_address) as runner:
            assert isinstance(runner, DaskRunner)
            cluster.scale(2)
            runner.client.wait_for_workers(2)
            assert list(runner.client.run(profilers_at_work).values()) == [[], []]
