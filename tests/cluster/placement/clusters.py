"""Clusters as data for the tests of placement: no Ray, no waiting."""

from cluster.placement.types import Node
from configs.load import load

GIB = 2**30


def node(name, cpu=0, gpu=0, accelerator=None, free=(), memory=64, store=8):
    """A node with its resources in Ray's names; what is 0 it does not have."""
    total = {"CPU": cpu, "GPU": gpu, "memory": memory * GIB, "object_store_memory": store * GIB}
    total = {key: float(value) for key, value in total.items() if value}
    return Node(name, name, total, total | dict(free), accelerator)


HEAD = node("head")

SMALL = [HEAD, node("a", 2), node("b", 2), node("c", 2)]

LARGE = [HEAD, node("gpu-a", 32, 8, "H100"), node("gpu-b", 32, 8, "H100")]


def debug(*overrides):
    return load("gp_l_debug", overrides)


def names(found, role):
    return [p.node.name for p in found.of(role)]
