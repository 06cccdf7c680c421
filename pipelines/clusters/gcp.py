"""Virtual machines of Google Cloud, one worker on each.

Needs ``pip install 'dask-cloudprovider[gcp]' 'serengeti-etl[tls]'`` and, once,
``gcloud auth application-default login``.
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="dask_cloudprovider.gcp:GCPCluster",
    options={
        "projectid": "my-project",  # CHANGE
        "zone": "us-west1-a",  # CHANGE: where the bucket is, or every byte is paid for
        # CHANGE: an image with this version of serengeti-etl. It must have the Python and the
        # libraries that you have here: workers are refused otherwise.
        "docker_image": "ghcr.io/my-organisation/serengeti-etl:0.1.0",
        "machine_type": "n1-standard-1",  # one core, 3.75 GB: a machine runs one process
        "worker_options": {"nthreads": 1, "memory_limit": "3GiB"},
        "env_vars": WORKER_ENVIRONMENT,
        # CHANGE: an account that may read and write the bucket.
        "service_account": "serengeti@my-project.iam.gserviceaccount.com",
        # Workers at a fraction of the price, which may be taken away: their shards are made again.
        "preemptible": True,
        # True has each machine install Docker when it starts. False for an image that has it
        # ("source_image").
        "bootstrap": True,
    },
    num_workers=16,
    is_secure=True,
)
