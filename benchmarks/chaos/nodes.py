"""A Ray of several raylets on this machine, one of which can be lost with all that runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from ray.cluster_utils import Cluster

OBJECT_STORE_MIB = 150


@contextmanager
def nodes(number: int, cpus: int, **options: object) -> Iterator[Cluster]:
    """A head and more nodes, as many as are said in all, each with so many CPUs."""
    node = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_MIB * 2**20, **options}
    made = Cluster(initialize_head=True, head_node_args={"include_dashboard": False, **node})
    try:
        for _ in range(number - 1):
            made.add_node(**node)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def raylet_with(cluster: Cluster, process: psutil.Process) -> psutil.Process | None:
    """The raylet below which a process runs, where that is not the head's."""
    pids = {node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    return next((parent for parent in process.parents() if parent.pid in pids), None)
