"""Pods of a Kubernetes cluster that runs the Dask operator.

Needs ``pip install 'serengeti-etl[kubernetes]'`` here, a kubeconfig, and, once for the cluster, the
operator: https://kubernetes.dask.org/en/latest/installing.html
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="dask_kubernetes.operator:KubeCluster",
    options={
        "name": "serengeti",
        "namespace": "default",  # CHANGE
        # CHANGE: an image with this version of serengeti-etl, for scheduler and workers. It must
        # have the Python and the libraries that you have here: workers are refused otherwise.
        "image": "ghcr.io/my-organisation/serengeti-etl:0.1.0",
        "worker_command": ["dask", "worker", "--nthreads", "1", "--memory-limit", "2GiB"],
        # Of each pod. The limit lies above the worker's own, so that Dask stops a process that
        # takes too much, and says so, before Kubernetes kills the pod.
        "resources": {
            "requests": {"cpu": "1", "memory": "2Gi"},
            "limits": {"cpu": "1", "memory": "2560Mi"},
        },
        # For a bucket, give the pods' service account access to it, or add credentials here.
        "env": {
            **WORKER_ENVIRONMENT,
            # No task waits at a worker behind another: if that one kills it, it alone is blamed.
            "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
            # A worker's death is told at once, and its shard made again with care.
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
        },
        "n_workers": 1,
        "resource_timeout": 300,  # seconds for the image to be pulled
    },
    # Pods come and go with the work.
    adaptive=(1, 50),
    # KubeCluster cannot carry keys (is_secure): what pods say to each other stays inside the
    # cluster, and the driver's part goes by the encrypted port-forward of Kubernetes. Where others
    # share the pods' network, let a service mesh encrypt it.
)
