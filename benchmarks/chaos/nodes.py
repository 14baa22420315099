"""A Ray of three raylets on this machine, one of which can be lost with all that runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from ray.cluster_utils import Cluster

OBJECT_STORE_MIB = 150


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    """A head and two more nodes, each with one CPU: the parts of a small run need two of them."""
    store = {"object_store_memory": OBJECT_STORE_MIB * 2**20}
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **store}
    )
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, **store)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def raylet_with(cluster: Cluster, process: psutil.Process) -> psutil.Process | None:
    """The raylet below which a process runs, where that is not the head's."""
    pids = {node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    return next((parent for parent in process.parents() if parent.pid in pids), None)
