"""Virtual machines of AWS (EC2), one worker on each.

Needs ``pip install 'dask-cloudprovider[aws]' 'serengeti-etl[tls]'`` and credentials of AWS here.
EC2Cluster asks for on-demand machines only; for spot machines see coiled.py or kubernetes.py.
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="dask_cloudprovider.aws:EC2Cluster",
    options={
        "region": "us-west-2",  # CHANGE: that of the bucket, or every byte is paid for
        # CHANGE: an image with this version of serengeti-etl. It must have the Python and the
        # libraries that you have here: workers are refused otherwise.
        "docker_image": "ghcr.io/my-organisation/serengeti-etl:0.1.0",
        "instance_type": "m7a.medium",  # one core, 4 GiB: a machine runs one process of one thread
        "worker_options": {"nthreads": 1, "memory_limit": "3GiB"},
        "env_vars": WORKER_ENVIRONMENT,
        # CHANGE: what lets the machines read and write the bucket.
        "iam_instance_profile": {"Name": "serengeti-bucket"},
        # CHANGE: must let the machines talk to each other, and you to ports 8786 and 8787. Left
        # out, a group is made that opens both ports to the whole internet.
        "security_groups": ["sg-0123456789abcdef0"],
        # True has each machine install Docker when it starts. False for an image that has it
        # ("ami").
        "bootstrap": True,
    },
    num_workers=16,
    is_secure=True,
)
