"""Scheduler, workers and driver on hosts of their own: same bytes, cables cut or not."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cli.options import load_cluster
from serengeti_etl.cluster import WORKER_ENVIRONMENT, DaskRunner, SerialRunner, open_runner
from serengeti_etl.config import ClusterSpec, SeasonPipeline
from serengeti_etl.convert.season import convert_season
from serengeti_etl.convert.versions import conversion_versions
from tests.conftest import files_below
from tests.hosts import ROOT, Host, HostsUnavailable, hosts, kept_running, wait_for
from tests.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.hosts]

# A host that is silent for so long is given up. By itself Dask waits for minutes.
SHORT = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
}

HELD = """
import time
from pathlib import Path
from serengeti_etl.convert import shard
# Dask runs this file twice.
honest_make, num_begun = vars(shard).setdefault("honest_make", shard.make_shard), 0
def make_when_allowed(task):
    global num_begun
    while num_begun and Path({hold!r}).exists():
        time.sleep(0.02)
    num_begun += 1
    return honest_make(task)
shard.make_shard = make_when_allowed
"""
"""In a worker: it makes one shard, and the next one when a file is gone."""


@pytest.fixture(scope="module")
def network() -> Iterator[dict[str, Host]]:
    """Four hosts; the tests are skipped where there can be none."""
    tag = f"se{os.getpid() % 10_000}"
    names = {role: f"{tag}{role}" for role in ("d", "s", "w", "x")}
    with ExitStack() as stack:
        try:
            made = stack.enter_context(hosts(*names.values()))
        except HostsUnavailable as reason:
            pytest.skip(str(reason))
        yield {role: made[name] for role, name in names.items()}


@pytest.fixture(scope="module")
def expected(
    pipeline: SeasonPipeline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files of the dataset, made here without a cluster."""
    output = tmp_path_factory.mktemp("serial")
    convert_season(pipeline, SerialRunner(), str(output))
    return files_below(output)


class Cluster:
    """A scheduler and workers on hosts; the driver is started by ``convert``."""

    def __init__(self, network: dict[str, Host], folder: Path, stack: ExitStack) -> None:
        self.network = network
        self.folder = folder
        self.stack = stack
        self.address = f"tcp://{network['s'].address}:8786"
        self.hold = folder / "hold"
        self.held = folder / "held.py"
        self.held.write_text(HELD.format(hold=str(self.hold)))
        arguments = ("--host", network["s"].address, "--port", "8786", "--no-dashboard")
        self._keep("s", "distributed.cli.dask_scheduler", *arguments)

    def add_worker(self, role: str) -> None:
        """Start a worker of one process and one thread on a host; see ``HELD``."""
        host = self.network[role].address
        arguments = ("--host", host, "--nthreads", "1", "--memory-limit", "1GiB", "--no-dashboard")
        own = ("--local-directory", str(self.folder / role), "--preload", str(self.held))
        self._keep(role, "distributed.cli.dask_worker", self.address, *arguments, *own)

    def _keep(self, role: str, *module_and_arguments: str) -> None:
        command = self.network[role].command("-m", *module_and_arguments)
        self.stack.enter_context(kept_running(command, self.log(role), **SHORT))

    def log(self, role: str) -> Path:
        """The file with what the program on a host says."""
        return self.folder / f"{role}.log"

    def says(self, role: str, pattern: str) -> bool:
        """True if it has said that."""
        return re.search(pattern, self.log(role).read_text()) is not None

    def convert(self, season: Path, output: Path) -> "subprocess.Popen[str]":
        """The command line of the driver, begun on its host."""
        file = self.folder / "drawn.py"
        file.write_text(
            "from tests.conftest import season_pipeline\n"
            f"pipeline = season_pipeline({str(season)!r})\n"
        )
        arguments = ("convert", str(file), "--output", str(output), "--cluster", self.address)
        return subprocess.Popen(
            self.network["d"].command("-m", "serengeti_etl", *arguments),
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | SHORT,
        )


@pytest.fixture
def cluster(network: dict[str, Host], tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    with ExitStack() as stack:
        made = Cluster(network, tmp_path, stack)
        wait_for(lambda: made.says("s", "Scheduler at"), "the scheduler")
        yield made


def finish(driver: "subprocess.Popen[str]") -> None:
    """Wait for the driver, which ends with its rejects within the budget."""
    try:
        _, said = driver.communicate(timeout=250)
    finally:
        driver.kill()
    assert driver.returncode == 2, said


def test_hosts_of_their_own_make_the_same_bytes(
    cluster: Cluster, season: Path, fresh: Callable[[str], Path], expected: dict[str, bytes]
) -> None:
    """Driver, scheduler and two workers that share a network and files: as without a cluster."""
    output = fresh("hosts")
    for role in ("w", "x"):
        cluster.add_worker(role)
        wait_for(lambda role=role: cluster.says(role, "Registered to"), f"worker {role}")  # type: ignore[misc]
    finish(cluster.convert(season, output))
    assert files_below(output) == expected


def commits(output: Path) -> int:
    return len(list(output.glob("index/*.parquet")))


def test_a_worker_that_is_cut_off_is_replaced_by_the_other(
    cluster: Cluster, season: Path, fresh: Callable[[str], Path], expected: dict[str, bytes]
) -> None:
    """The shard in its hand is made again, and what it wrote meanwhile does no harm."""
    output = fresh("replaced")
    for role in ("w", "x"):
        cluster.add_worker(role)
        wait_for(lambda role=role: cluster.says(role, "Registered to"), f"worker {role}")  # type: ignore[misc]
    cluster.hold.touch()  # so that it has one in its hand
    driver = cluster.convert(season, output)
    wait_for(lambda: commits(output) >= 1, "the first shard")
    cluster.network["w"].cut()
    cluster.hold.unlink()
    finish(driver)
    assert cluster.says("s", "Remove worker")
    cluster.network["w"].mend()
    assert files_below(output) == expected


def test_the_only_worker_is_cut_off_and_comes_back(
    cluster: Cluster, season: Path, fresh: Callable[[str], Path], expected: dict[str, bytes]
) -> None:
    """Cut off for longer than its heartbeat may be late, it is given up; back again, it goes on."""
    output = fresh("back")
    cluster.add_worker("w")
    wait_for(lambda: cluster.says("w", "Registered to"), "the worker")
    cluster.hold.touch()  # or all would be made before it is cut off
    driver = cluster.convert(season, output)
    wait_for(lambda: commits(output) >= 1, "the first shard")
    cluster.network["w"].cut()
    wait_for(lambda: cluster.says("s", "Remove worker"), "the scheduler gives it up")
    assert driver.poll() is None
    cluster.hold.unlink()
    cluster.network["w"].mend()
    finish(driver)
    assert files_below(output) == expected


@pytest.fixture
def ssh_options(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """How asyncssh reaches an SSH server on this machine that lets only the tests in."""
    asyncssh = pytest.importorskip("asyncssh")
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        pytest.skip("there is no sshd on this machine")
    for name in ("host", "user"):
        asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(tmp_path / name))
        (tmp_path / name).chmod(0o600)
    key = asyncssh.read_private_key(str(tmp_path / "user"))
    key.write_public_key(str(tmp_path / "authorized"))
    port = free_port()
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\n"
        f"AuthorizedKeysFile {tmp_path}/authorized\nPidFile none\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines itself
    server = subprocess.Popen([sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")])
    try:
        yield {"port": port, "client_keys": [str(tmp_path / "user")], "known_hosts": None}
    finally:
        server.terminate()
        server.wait()


def environment_of_workers(client: Any) -> list[dict[str, str]]:
    told = client.run(lambda: dict(os.environ))
    return [{name: told[worker].get(name, "") for name in WORKER_ENVIRONMENT} for worker in told]


def test_hosts_reached_by_ssh_make_the_same_bytes(
    ssh_options: dict[str, Any],
    pipeline: SeasonPipeline,
    fresh: Callable[[str], Path],
    expected: dict[str, bytes],
) -> None:
    """``pipelines/clusters/ssh.py``, with this machine for its hosts, starts workers and works."""
    written = load_cluster(str(ROOT / "pipelines" / "clusters" / "ssh.py"))
    assert isinstance(written, ClusterSpec)
    changes = {
        "hosts": ["127.0.0.1", "127.0.0.1"],
        "remote_python": f"env PYTHONPATH={ROOT} {sys.executable}",
        "connect_options": ssh_options,
        "worker_options": {**written.options["worker_options"], "n_workers": 2},
        "scheduler_options": {"port": 0, "dashboard_address": "127.0.0.1:0"},
    }
    spec = dataclasses.replace(written, options={**written.options, **changes})
    output = fresh("ssh")
    with open_runner(spec, conversion_versions) as runner:
        assert isinstance(runner, DaskRunner)
        assert list(runner.client.nthreads().values()) == [1, 1]
        assert environment_of_workers(runner.client) == [WORKER_ENVIRONMENT] * 2
        convert_season(pipeline, runner, str(output))
    assert files_below(output) == expected
