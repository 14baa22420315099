"""Placement: which process of a run goes to which node, or one sentence that says why not.

Input: a configuration, nodes and memory needs as data. Output: a plan. Starts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.failures import ClusterBusyError, PlacementError
from cluster.placement.arrange import arrange
from cluster.placement.shortage import explain
from cluster.placement.types import (
    DATA,
    DATA_CPUS,
    RANK,
    RESERVE,
    WORKER,
    Group,
    Needs,
    Node,
    Plan,
)
from configs.schema import RunConfig


def plan(
    cfg: RunConfig, nodes: Sequence[Node], needs: Needs | None = None, learn: bool = True
) -> Plan:
    """Place a run's processes on a cluster; pure.

    Args:
        cfg: the run.
        nodes: of the cluster, in any order.
        needs: memory of its processes; None counts CPUs and GPUs alone.
        learn: False places rollout workers only (evaluation).

    Raises:
        PlacementError: one sentence: which resource is short, where, and what would fit.
        ClusterBusyError: the same, where it would fit if others held nothing.
    """
    gpu = any(node.total.get("GPU", 0) for node in nodes)
    requested = groups(cfg, gpu, needs or Needs(), learn)
    possible = gpu or cfg.rollout.tensor_parallel == 1
    places = arrange(cfg, requested, {n.id: n.free for n in nodes}, nodes) if possible else None
    if places is None:
        fits_empty = possible and arrange(cfg, requested, {n.id: n.total for n in nodes}, nodes)
        kind = ClusterBusyError if fits_empty else PlacementError
        raise kind(explain(cfg, requested, nodes))
    return Plan(requested, tuple(places), tuple(sorted(nodes, key=lambda n: n.name)))


def groups(cfg: RunConfig, gpu: bool, needs: Needs, learn: bool = True) -> tuple[Group, ...]:
    """What a run requests: rollout workers, learner ranks, CPUs for Ray Data's tasks."""
    rollout, learner = cfg.rollout, cfg.learner
    engine_gpus = gpu and not (cfg.cluster.layout == "colocated" and learn)
    card, parts = _engine_card(cfg, needs)
    worker = Group(
        role=WORKER,
        count=rollout.workers,
        cpus=rollout.cpus,
        gpus=float(rollout.tensor_parallel) if engine_gpus else 0.0,
        memory=needs.worker,
        gpu_gib=card / 2**30 if gpu else 0.0,
        gpu_parts=parts if gpu else "",
        object_store=needs.weights,
        accelerator=cfg.cluster.accelerator,
    )
    rank = Group(
        role=RANK,
        count=learner.ranks,
        cpus=learner.cpus,
        gpus=1.0 if gpu else 0.0,
        memory=needs.rank,
        gpu_gib=needs.rank_gpu / RESERVE / 2**30 if gpu else 0.0,
        object_store=needs.weights,
        accelerator=cfg.cluster.accelerator,
    )
    data = Group(role=DATA, count=1 if cfg.sft.steps else 0, cpus=DATA_CPUS)
    others = [group for group in (rank, data) if group.count and learn]
    return (worker, *others)  # there may be none: see `layout.without_engines`


def _engine_card(cfg: RunConfig, needs: Needs) -> tuple[float, str]:
    """Bytes that a GPU must have for an engine's share of it, or for what is beside that share.

    And which parts these are.
    """
    share = cfg.rollout.gpu_memory
    within = sum(needs.engine_gpu.values()) / share
    beside = needs.worker_beside / max(0.01, 1 - share)
    if within < beside:
        arriving = f"arriving weights {needs.worker_beside / 2**30:.1f}"
        return beside, f"{arriving}, beside rollout.gpu_memory={share:g}"
    parts = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in needs.engine_gpu.items())
    return within, f"{parts}, all in rollout.gpu_memory={share:g}" if parts else ""


def cpus(cfg: RunConfig) -> float:
    """Logical CPUs of all processes of a run."""
    return sum(g.count * g.cpus for g in groups(cfg, False, Needs()))
