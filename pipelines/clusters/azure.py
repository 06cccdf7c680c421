"""Virtual machines of Azure, one worker on each.

Needs ``pip install 'dask-cloudprovider[azure]' 'serengeti-etl[tls]'`` and ``az login`` here.
"""

from serengeti_etl import ClusterSpec
from serengeti_etl.cluster import WORKER_ENVIRONMENT

cluster = ClusterSpec(
    cluster="dask_cloudprovider.azure:AzureVMCluster",
    options={
        "location": "westeurope",  # CHANGE: where the container of the photographs is
        "resource_group": "serengeti",  # CHANGE, as the two that follow: they must exist
        "vnet": "serengeti-vnet",
        # Must let the machines talk to each other, and you to ports 8786 and 8787.
        "security_group": "serengeti-nsg",
        # CHANGE: an image with this version of serengeti-etl. It must have the Python and the
        # libraries that you have here: workers are refused otherwise.
        "docker_image": "ghcr.io/my-organisation/serengeti-etl:0.1.0",
        "vm_size": "Standard_DS1_v2",  # one core, 3.5 GiB: a machine runs one process
        "worker_options": {"nthreads": 1, "memory_limit": "2.5GiB"},
        # Machines have no role for storage here: add what the account needs to be opened, such as
        # AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_SAS_KEY, taken from your own environment.
        "env_vars": WORKER_ENVIRONMENT,
        # True has each machine install Docker when it starts. False for an image that has it
        # ("vm_image").
        "bootstrap": True,
    },
    num_workers=16,
    is_secure=True,
)
