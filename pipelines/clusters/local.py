"""Spawned processes on this machine: what runs when ``--cluster`` is not given, spelled out."""

from serengeti_etl import ClusterSpec

cluster = ClusterSpec(
    # Any class with Dask's cluster interface: "dask_jobqueue:SLURMCluster", and so on.
    cluster="distributed:LocalCluster",
    options={"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"},
)
