"""A cluster whose nodes are this process, so that answers and failures can be chosen."""

from cluster.doctor.machine import Subject
from cluster.doctor.nodes import Cluster
from cluster.doctor.versions import read_requirements
from cluster.placement.memory import tiny_size
from cluster.placement.types import Node
from configs.load import load


def node_id(name):
    """As Ray takes them, of 28 bytes."""
    return name.encode().hex().zfill(56)


def node(name, cpus=4.0, gpus=0.0):
    total = {"CPU": cpus, "GPU": gpus}
    return Node(node_id(name), name, total, total)


def cluster(*nodes, root="/shared/runs", **keys):
    """This process is on the first node."""
    cfg = load("gp_l_debug", [f"cluster.root={root}", *(f"{k}={v}" for k, v in keys.items())])
    subject = Subject(cfg, tiny_size(cfg), read_requirements(), starts_ray=False)
    return Cluster(subject, nodes, nodes[0].id)
