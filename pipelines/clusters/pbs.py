"""Batch jobs of PBS, submitted from a login node, where the driver and the scheduler run.

Needs ``pip install 'serengeti-etl[jobqueue,tls]'`` in an environment that all nodes see.
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="dask_jobqueue:PBSCluster",
    options={
        "queue": "workq",  # CHANGE
        "account": "my-account",  # CHANGE: who pays; leave it out where jobs have no account
        "walltime": "04:00:00",  # a job that ends loses the shards in hand: others make them again
        # One job: so many processes of one thread each, which share cores and memory evenly.
        "cores": 8,
        "processes": 8,
        "memory": "16 GiB",  # of the job: each process may take an eighth, and is stopped beyond
        # What the job asks PBS for; CHANGE where your PBS counts otherwise (nodes=1:ppn=8).
        "resource_spec": "select=1:ncpus=8:mem=16GB",
        # CHANGE: a fast disk of the node for scratch, and a folder for the jobs' output.
        "local_directory": "/tmp",  # noqa: S108 - the node's own
        "log_directory": "pbs-logs",
        "job_script_prologue": [
            # "module load python", "source /home/me/venv/bin/activate", ... where nodes need it
            *(f"export {name}={value}" for name, value in WORKER_ENVIRONMENT.items()),
        ],
        # CHANGE: where the keys of this run lie for the workers (is_secure): a folder that exists,
        # that all nodes see and only you can read.
        "shared_temp_directory": "~",
        # Where nodes have several networks, name that between them: "interface", such as "ib0".
    },
    # Jobs come and go with the work, up to 64 processes, which are 8 jobs.
    adaptive=(0, 64),
    is_secure=True,
)
