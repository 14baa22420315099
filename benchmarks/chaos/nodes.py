"""A Ray of several raylets on this machine, one of which can be lost with all that runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from ray._private.node import Node
from ray.cluster_utils import Cluster

from cluster.placement.types import LEARNER, ROLE, ROLLOUT

OBJECT_STORE_MIB = 150
FOR_THE_LEARNER, FOR_A_WORKER = {"labels": {ROLE: LEARNER}}, {"labels": {ROLE: ROLLOUT}}


@contextmanager
def nodes(number: int, cpus: int, roles: bool = False, **options: object) -> Iterator[Cluster]:
    """A head and more nodes, as many as are said in all, each with so many CPUs.

    roles: the head is for the learner alone, and all others for workers.
    """
    node = {"num_cpus": cpus, "object_store_memory": OBJECT_STORE_MIB * 2**20, **options}
    head = {"include_dashboard": False, **node, **(FOR_THE_LEARNER if roles else {})}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(number - 1):
            made.add_node(**node, **(FOR_A_WORKER if roles else {}))
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def node_with(cluster: Cluster, process: psutil.Process) -> Node:
    """The worker's node below whose raylet a process runs."""
    above = {parent.pid for parent in process.parents()}
    return next(node for node in cluster.worker_nodes if raylet_of(node).pid in above)


def raylet_of(node: Node) -> psutil.Process:
    """The process of a node's raylet."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def replace_node(cluster: Cluster, node: Node) -> None:
    """End all processes of a worker's node, and add a new one: Ray's own has a CPU too."""
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(**FOR_A_WORKER)
