"""Finished trajectories as the buffer keeps them, and which of them each learner rank is given.

A rank fetches a block once, for all of its rows in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ray import ObjectRef

from cluster.handles import BlockRows
from learner.minibatches import deal
from rollout.trajectory import Block
from rollout.trajectory_summary import TrajectorySummary


@dataclass(frozen=True)
class BufferedTrajectory:
    """Where a trajectory is stored, and its summary; one that was quarantined is nowhere."""

    block: ObjectRef[Block] | None
    row: int
    summary: TrajectorySummary

    @property
    def rows(self) -> BlockRows:
        """Its place in the object store."""
        assert self.block is not None, "one that failed without a block is never handed out"
        return BlockRows(self.block, [self.row])


class Shard(NamedTuple):
    """A rank's trajectories, and the ids of those of them that are in each minibatch."""

    rows: list[BlockRows]
    minibatches: list[list[str]]


def shards(
    trajectories: list[BufferedTrajectory],
    ranks: int,
    minibatches: Sequence[list[str]] = (),
    *,
    by_block: bool = False,
) -> list[Shard]:
    """The trajectories of each rank; each minibatch of ids balanced by tokens; deterministic.

    by_block: keep a block's trajectories on few ranks. Which ones share a block is a matter of
        time: without it, ranks depend on the trajectories alone.
    """
    ordered = sorted(trajectories, key=lambda trajectory: trajectory.summary.id)
    tokens = {t.summary.id: t.summary.tokens for t in ordered}
    blocks = {t.summary.id: t.block for t in ordered} if by_block else None
    rank_of = deal(tokens, minibatches, ranks, blocks)
    rows: list[dict[ObjectRef[Block], list[int]]] = [{} for _ in range(ranks)]
    for trajectory in ordered:
        block, (row,) = trajectory.rows
        rows[rank_of[trajectory.summary.id]].setdefault(block, []).append(row)
    own: list[list[list[str]]] = [[[] for _ in minibatches] for _ in range(ranks)]
    for number, ids in enumerate(minibatches):
        for name in ids:
            own[rank_of[name]][number].append(name)
    return [
        Shard([BlockRows(*item) for item in blocks.items()], ids)
        for blocks, ids in zip(rows, own, strict=True)
    ]
