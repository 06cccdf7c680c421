"""Virtual machines of AWS, Google Cloud or Azure, run in your account by Coiled (a paid service).

Needs ``pip install coiled`` and, once, ``coiled login`` and ``coiled setup``.
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="coiled:Cluster",
    options={
        "name": "serengeti",
        "workspace": "my-workspace",  # CHANGE
        "region": "us-west-2",  # CHANGE: that of the bucket, or every byte is paid for
        # CHANGE: an image with this version of serengeti-etl. Without it, Coiled copies the
        # packages that are installed here to the machines.
        "container": "ghcr.io/my-organisation/serengeti-etl:0.1.0",
        "n_workers": 1,
        # Of each machine, which runs one process of one thread.
        "worker_cpu": 1,
        "worker_memory": "4GiB",
        "worker_options": {"nthreads": 1, "memory_limit": "3GiB"},
        "environ": WORKER_ENVIRONMENT,
        # Spot machines, and others where there are none: their shards are made again.
        "spot_policy": "spot_with_fallback",
        "idle_timeout": "20 minutes",
    },
    # Machines come and go with the work.
    adaptive=(1, 50),
    # Coiled encrypts by itself (tls://), with keys of its own: is_secure has nothing to add.
)
