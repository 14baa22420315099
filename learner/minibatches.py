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


def deal(tokens: Mapping[Key, int], parts: Iterable[Iterable[Key]], ranks: int) -> dict[Key, int]:
    """A rank for each item, so that the tokens of each part are about the same on all ranks.

    Greedy: the longest item first, each to the rank that has the fewest tokens in the parts that
    the item belongs to (vector scheduling by list, Chekuri and Khanna 2004).

    Args:
        tokens: of each item; of equally long ones the first comes first.
        parts: the items of each part; an item may be in several, or in none.
        ranks: how many there are.
    """
    numbers: dict[Key, list[int]] = {key: [0] for key in tokens}  # 0: the part that holds all
    count = 1
    for count, part in enumerate(parts, 2):
        for key in part:
            numbers[key].append(count - 1)
    loads = np.zeros((count, ranks), np.int64)
    rank_of: dict[Key, int] = {}
    for key in sorted(tokens, key=lambda key: -tokens[key]):
        rank_of[key] = rank = int(loads[numbers[key]].sum(0).argmin())
        loads[numbers[key], rank] += tokens[key]
    return rank_of
