"""Hosts that this machine reaches by SSH with keys, as ``ssh HOST`` does without a password.

Needs ``pip install 'serengeti-etl[ssh]'`` here; on every host the same version of serengeti-etl,
and the photographs and the output at the same url or path.
"""

from serengeti_etl import ClusterSpec

cluster = ClusterSpec(
    cluster="distributed:SSHCluster",
    options={
        # CHANGE: the first host runs the scheduler, each of the others workers. Repeat the first
        # to have both there.
        "hosts": ["node-0", "node-0", "node-1"],
        # CHANGE: the Python on those hosts that has serengeti-etl.
        "remote_python": "/opt/serengeti/bin/python",
        # As asyncssh.connect takes them. Host keys are checked against ~/.ssh/known_hosts.
        "connect_options": {"username": "serengeti"},
        "worker_options": {
            "n_workers": 8,  # processes on each host: one for each core
            "nthreads": 1,
            "memory_limit": "2GiB",  # of each process
        },
        "scheduler_options": {
            "port": 8786,
            "dashboard_address": ":8787",
        },
        # The variables of WORKER_ENVIRONMENT travel with Dask's configuration, which SSHCluster
        # hands to every process that it starts.
    },
    # SSH only starts the processes: what they say to each other goes by TCP, in the open, and
    # SSHCluster cannot carry keys (is_secure). On a network that others share, put certificates at
    # the same paths on all hosts, name them in Dask's configuration here (distributed.comm.tls, and
    # distributed.comm.require-encryption: true), and give worker_options and scheduler_options the
    # "protocol" "tls://".
    #
    # The number of workers is that of hosts and n_workers: this class cannot ask for more.
)
