"""Clusters, and ranks on them, as data for the tests of placement: no Ray, no waiting."""

from cluster.placement.rank import Rank
from cluster.placement.types import Node
from configs.load import load
from configs.model_folder import ModelSize

GIB = 2**30
N = 10**9
BILLION = ModelSize({"all": N}, 2, 8, 100, 512)


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


def rank(stage, *keys, model=BILLION, ranks=2):
    """One of so many, of the debug run at a ZeRO stage."""
    return Rank(debug(f"learner.ranks={ranks}", f"learner.zero_stage={stage}", *keys), model)


def names(found, role):
    return [p.node.name for p in found.of(role)]
