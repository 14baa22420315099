"""Colocated engines on the GPUs of learner ranks: which engine gets which.

Input: the GPUs that Ray gave each rank. Output: every engine knows its own, before it starts.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import ray

from cluster.failures import RunFailure
from cluster.handles import RolloutWorkerHandle
from cluster.wait import wait_for_all
from configs.schema import RunConfig


class RankGPUs(NamedTuple):
    """Of one rank: Ray's id of its node, and its GPUs there, as CUDA_VISIBLE_DEVICES names them."""

    node: str
    gpus: tuple[str, ...]


def own_gpus() -> RankGPUs:
    """Those of the rank that asks."""
    context = ray.get_runtime_context()
    return RankGPUs(context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ())))


def share_gpus(
    cfg: RunConfig, workers: list[RolloutWorkerHandle], ranks: Sequence[RankGPUs]
) -> None:
    """Give each worker the GPUs of ranks on its node.

    Raises:
        RunFailure: a node has too few, or an engine has started on others.
    """
    seconds, key = cfg.cluster.start_deadline_s, "start_deadline_s"
    asked = "rollout worker", "name its node", seconds, key, time.monotonic()
    nodes = wait_for_all([worker.node.remote() for worker in workers], *asked)
    shares = assign(ranks, nodes, cfg.rollout.tensor_parallel)
    calls = [
        worker.use_gpus.remote(list(share)) for worker, share in zip(workers, shares, strict=True)
    ]
    asked = "rollout worker", "take its GPUs", seconds, key, time.monotonic()
    wait_for_all(calls, *asked)


def assign(
    ranks: Sequence[RankGPUs], workers: Sequence[str], parallel: int
) -> list[tuple[str, ...]]:
    """GPUs of each worker, `parallel` of its node's, each given once.

    Args:
        ranks: all.
        workers: node of each.
        parallel: GPUs of an engine.

    Raises:
        RunFailure: a node's ranks have fewer.
    """
    left: dict[str, list[str]] = defaultdict(list)
    for rank in ranks:
        left[rank.node] += rank.gpus
    shares = []
    for index, node in enumerate(workers):
        share, left[node] = left[node][:parallel], left[node][parallel:]
        if len(share) < parallel:
            raise RunFailure(
                f"rollout worker {index} shares {parallel} GPUs with learner ranks of its node, "
                f"and those of node {node} have {len(share)} that no other engine shares: the "
                "ranks are on other nodes than the plan put them; start again"
            )
        shares.append(tuple(share))
    return shares
