"""Minibatches of an update, and ranks for its trajectories: minibatches first, by seed alone.

Loss-invariance: what a minibatch holds does not depend on the number of ranks. Without torch, for
the trajectory buffer, which deals the trajectories out.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np

from configs.schema import PPOConfig

Key = TypeVar("Key", bound=Hashable)
SLACK = 0.02  # of a rank's tokens of a minibatch, for which a block stays together


def update_minibatches(
    ids: Iterable[str], ppo: PPOConfig, seed: int, update: int
) -> list[list[str]]:
    """The minibatch of each optimizer step of an update: every epoch cuts the batch anew.

    Args:
        ids: of the trajectories that are trained on, in any order.
        ppo: epochs and minibatch are read.
        seed: of the run.
        update: 0, 1, …
    """
    ordered = sorted(ids)
    return [
        minibatch
        for epoch in range(ppo.epochs)
        for minibatch in minibatches(ordered, ppo.minibatch, (seed, update, epoch))
    ]


def minibatches(ids: list[str], size: int, seed: tuple[int, ...]) -> list[list[str]]:
    """Cut a shuffled batch of ids into ceil(B / size) minibatches of about equal size."""
    if not ids:
        return []
    shuffled = np.random.default_rng(seed).permutation(len(ids))
    return [[ids[i] for i in part] for part in np.array_split(shuffled, -(-len(ids) // size))]


def deal(
    tokens: Mapping[Key, int],
    parts: Iterable[Iterable[Key]],
    ranks: int,
    block_of: Mapping[Key, Hashable] | None = None,
) -> dict[Key, int]:
    """A rank for each item, so that the tokens of each part are about the same on all ranks.

    Greedy: the longest item first, each to the rank that has the fewest tokens in the parts that
    the item belongs to (vector scheduling by list, Chekuri and Khanna 2004); or to one that has
    items of its block and at most SLACK more, so that few ranks fetch the same block.

    Args:
        tokens: of each item; of equally long ones the first comes first.
        parts: the items of each part; an item may be in several, or in none.
        ranks: how many there are.
        block_of: of each item, the block that a rank fetches for it; None: each item is one.
    """
    numbers: dict[Key, list[int]] = {key: [0] for key in tokens}  # 0: the part that holds all
    sizes = [sum(tokens.values())]
    for count, part in enumerate(parts, 1):
        sizes.append(0)
        for key in part:
            numbers[key].append(count)
            sizes[count] += tokens[key]
    loads = np.zeros((len(sizes), ranks), np.int64)
    slack = SLACK * min(sizes) / ranks
    ranks_of: dict[Hashable, list[int]] = {}  # that have items of a block
    rank_of: dict[Key, int] = {}
    for key in sorted(tokens, key=lambda key: -tokens[key]):
        load = loads[numbers[key]].sum(0).tolist()
        rank = load.index(min(load))
        holders = ranks_of.setdefault(key if block_of is None else block_of[key], [])
        if rank not in holders:
            nearest = min(holders, key=load.__getitem__, default=rank)
            if nearest != rank and load[nearest] - load[rank] <= slack * len(numbers[key]):
                rank = nearest
            else:
                holders.append(rank)
        rank_of[key] = rank
        loads[numbers[key], rank] += tokens[key]
    return rank_of
