"""Spawned processes on this machine: what runs when ``--cluster`` is not given, spelled out."""

from serengeti_etl import ClusterSpec

cluster = ClusterSpec(
    cluster="distributed:LocalCluster",
    options={
        "n_workers": 2,  # processes: one for each core
        "threads_per_worker": 1,
        # Of each process; one that takes more is stopped, and its shard made again elsewhere.
        "memory_limit": "2GiB",
        # Any free port, for this machine only; ":8787" shows the dashboard to others too.
        "dashboard_address": "127.0.0.1:0",
        # The variables of WORKER_ENVIRONMENT are set by serengeti-etl itself: its workers are
        # started by this process.
    },
)
