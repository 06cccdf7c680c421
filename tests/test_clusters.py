"""The files in ``pipelines/clusters/`` build what they say, as far as that goes without them."""

import asyncio
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from serengeti_etl.cli.options import load_cluster
from serengeti_etl.cluster import WORKER_ENVIRONMENT, DaskRunner, _build, open_runner
from serengeti_etl.config import ClusterSpec

FOLDER = Path(__file__).parents[1] / "pipelines" / "clusters"
GIB = 1024**3


def spec_of(name: str) -> ClusterSpec:
    spec = load_cluster(str(FOLDER / f"{name}.py"))
    assert isinstance(spec, ClusterSpec)
    return spec


def test_there_is_a_file_for_each_kind_of_cluster() -> None:
    """This machine, SSH, two batch queues, Kubernetes, three clouds, and Coiled."""
    kinds = {"local", "ssh", "slurm", "pbs", "kubernetes", "aws", "gcp", "azure", "coiled"}
    assert {path.stem for path in FOLDER.glob("*.py")} == kinds


def test_what_leaves_the_host_is_encrypted_where_the_class_can() -> None:
    """The others say in a comment what a person has to do."""
    secure = {path.stem for path in FOLDER.glob("*.py") if spec_of(path.stem).is_secure}
    assert secure == {"slurm", "pbs", "aws", "gcp", "azure"}
    for name in ("ssh", "kubernetes", "coiled"):
        assert "is_secure" in (FOLDER / f"{name}.py").read_text()


def test_local_workers_are_as_the_file_says() -> None:
    """Two processes of one thread and 2 GiB, with the environment that libvips and glibc need."""
    with open_runner(spec_of("local")) as runner:
        assert isinstance(runner, DaskRunner)
        workers = runner.client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1]
        assert [worker["memory_limit"] for worker in workers] == [2 * GIB] * 2
        for environment in runner.client.run(lambda: dict(os.environ)).values():
            assert environment.items() >= WORKER_ENVIRONMENT.items()


def test_ssh_starts_workers_on_each_host_but_the_first() -> None:
    """Eight processes of one thread and 2 GiB on each; the first host has the scheduler."""
    spec = spec_of("ssh")

    async def build() -> Any:
        from distributed import SSHCluster

        return SSHCluster(**spec.options, asynchronous=True)

    cluster = asyncio.run(build())
    assert cluster.scheduler_spec["options"]["address"] == "node-0"
    workers = [worker["options"] for worker in cluster.worker_spec.values()]
    assert [worker["address"] for worker in workers] == ["node-0", "node-1"]
    wanted = {"n_workers": 8, "nthreads": 1, "memory_limit": "2GiB"}
    assert [worker["kwargs"] for worker in workers] == [wanted] * 2


SCRIPTS = {
    "slurm": """\
#!/usr/bin/env bash

#SBATCH -J dask-worker
#SBATCH -e slurm-logs/dask-worker-%J.err
#SBATCH -o slurm-logs/dask-worker-%J.out
#SBATCH -p normal
#SBATCH -A my-account
#SBATCH -n 1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH -t 04:00:00
export VIPS_CONCURRENCY=1
export MALLOC_ARENA_MAX=2
export PYTHONFAULTHANDLER=1
PYTHON -m distributed.cli.dask_worker SCHEDULER --name NAME --nthreads 1 --memory-limit 2.00GiB \
--nworkers 8 --nanny --death-timeout 60 --local-directory /tmp --protocol tls:// KEYS
""",
    "pbs": """\
#!/usr/bin/env bash

#PBS -N dask-worker
#PBS -q workq
#PBS -A my-account
#PBS -l select=1:ncpus=8:mem=16GB
#PBS -l walltime=04:00:00
#PBS -e pbs-logs/
#PBS -o pbs-logs/
export VIPS_CONCURRENCY=1
export MALLOC_ARENA_MAX=2
export PYTHONFAULTHANDLER=1
PYTHON -m distributed.cli.dask_worker SCHEDULER --name NAME --nthreads 1 --memory-limit 2.00GiB \
--nworkers 8 --nanny --death-timeout 60 --local-directory /tmp --protocol tls:// KEYS
""",
}


@pytest.mark.parametrize("name", ["slurm", "pbs"])
def test_a_batch_queue_is_handed_this_script(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight processes of one thread and 2 GiB a job, their environment, and keys for TLS."""
    pytest.importorskip("dask_jobqueue")
    monkeypatch.chdir(tmp_path)  # where it makes the folder for logs
    monkeypatch.setenv("HOME", str(tmp_path))  # where the keys go
    with _build(spec_of(name)) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://")
        keys = list(tmp_path.glob(".dask-jobqueue.worker.*"))
        assert len(keys) == 3
        assert all(key.stat().st_mode & 0o077 == 0 for key in keys)
    script = script.replace(sys.executable, "PYTHON")
    script = re.sub(r"tls://[\d.:]+", "SCHEDULER", script)
    script = re.sub(r"--name \S+", "--name NAME", script)
    script = re.sub(
        r"(--tls-(ca-file|cert|key) ~/\.dask-jobqueue\.worker\.\S+ ?){3}", "KEYS", script
    )
    assert script == SCRIPTS[name]


def test_kubernetes_is_handed_this_manifest() -> None:
    """One process of one thread and 2 GiB a pod, a little below the pod's own limit."""
    operator = pytest.importorskip("dask_kubernetes.operator")
    spec = spec_of("kubernetes")
    inspect.signature(operator.KubeCluster).bind(**spec.options)
    known = inspect.signature(operator.make_cluster_spec).parameters
    manifest = operator.make_cluster_spec(
        **{name: value for name, value in spec.options.items() if name in known}
    )
    assert manifest["metadata"] == {"name": "serengeti"}
    worker = manifest["spec"]["worker"]
    (container,) = worker["spec"]["containers"]
    assert worker["replicas"] == 1
    assert container["image"] == "ghcr.io/my-organisation/serengeti-etl:0.1.0"
    command = ["dask", "worker", "--nthreads", "1", "--memory-limit", "2GiB"]
    assert container["args"][:6] == command
    assert container["resources"]["limits"] == {"cpu": "1", "memory": "2560Mi"}
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment.items() >= WORKER_ENVIRONMENT.items()
    scheduler = manifest["spec"]["scheduler"]["spec"]["containers"][0]
    saturation = {"name": "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION", "value": "1.0"}
    assert saturation in scheduler["env"]


ENVIRONMENT_KEYWORD = {
    "aws": "env_vars",
    "gcp": "env_vars",
    "azure": "env_vars",
    "coiled": "environ",
}


@pytest.mark.parametrize("name", ENVIRONMENT_KEYWORD)
def test_a_cloud_s_class_knows_every_keyword(name: str) -> None:
    """Each option is a keyword of the class or of those that it is made of."""
    spec = spec_of(name)
    module, _, class_name = spec.cluster.partition(":")
    cluster_class = getattr(pytest.importorskip(module, exc_type=ImportError), class_name)
    known = {
        keyword
        for part in inspect.getmro(cluster_class)
        if "__init__" in vars(part)
        for keyword in inspect.signature(vars(part)["__init__"]).parameters
    }
    assert set(spec.options) <= known
    if spec.is_secure:
        assert "security" in known


@pytest.mark.parametrize("name", ENVIRONMENT_KEYWORD)
def test_a_cloud_s_machine_runs_one_thread_within_its_memory(name: str) -> None:
    """One thread, a memory limit below that of the machine, and the environment of workers."""
    options = spec_of(name).options
    assert options["worker_options"]["nthreads"] == 1
    assert options["worker_options"]["memory_limit"] in ("3GiB", "2.5GiB")
    assert options[ENVIRONMENT_KEYWORD[name]] == WORKER_ENVIRONMENT
