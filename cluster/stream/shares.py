"""Finished trajectories as the buffer keeps them, and which of them each learner rank is given.

A rank fetches a block once, for all of its rows in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ray import ObjectRef

from cluster.handles import BlockRows, Share
from cluster.stream.ledger import Batch
from configs.schema import RunConfig
from learner.minibatches import deal, update_minibatches
from rollout.trajectory import Block
from rollout.trajectory_summary import TrajectorySummary, mean_metrics


@dataclass(frozen=True)
class BufferedTrajectory:
    """Where a trajectory is stored, its summary, and the rollout worker that played it.

    One that was quarantined is stored nowhere.
    """

    block: ObjectRef[Block] | None
    row: int
    summary: TrajectorySummary
    worker: int

    @property
    def rows(self) -> BlockRows:
        """Its place in the object store."""
        assert self.block is not None, "one that failed without a block is never handed out"
        return BlockRows(self.block, [self.row], self.worker)


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
    rows: list[dict[ObjectRef[Block], BlockRows]] = [{} for _ in range(ranks)]
    for trajectory in ordered:
        block, _, worker = trajectory.rows
        own_rows = rows[rank_of[trajectory.summary.id]]
        own_rows.setdefault(block, BlockRows(block, [], worker)).rows.append(trajectory.row)
    own: list[list[list[str]]] = [[[] for _ in minibatches] for _ in range(ranks)]
    for number, ids in enumerate(minibatches):
        for name in ids:
            own[rank_of[name]][number].append(name)
    return [Shard([*own_rows.values()], ids) for own_rows, ids in zip(rows, own, strict=True)]


def of_all_played(batch: Batch[BufferedTrajectory]) -> dict[str, float]:
    """What stands in an update's record in the place of the figures of what it trains on.

    Groups without signal are all right or all wrong: without those that were passed over, the rest
    says more than it should of a poor policy and less of a good one.

    Returns:
        episodes_played, tokens_played, and reward, success, first_try and metric_NAME as the
        learner names them; nothing where no group was passed over.
    """
    if not batch.passed:
        return {}
    played = [t.summary for t in (*batch.results, *batch.passed)]
    means = mean_metrics(played)
    outcomes = {name: means.pop(name, 0.0) for name in ("success", "first_try")}
    return {
        "episodes_played": len(played),
        "tokens_played": sum(summary.tokens for summary in played),
        "reward": sum(summary.reward for summary in played) / len(played),
        **outcomes,
        **{f"metric_{name}": mean for name, mean in means.items()},
    }


class Shares:
    """What the ranks are given: of the batch of each update, and of what was collected last."""

    def __init__(self, cfg: RunConfig) -> None:
        self._cfg = cfg
        self._collected: list[BufferedTrajectory] = []
        self._collected_shards: list[Shard] = []  # dealt out once a rank wants its own
        self._batches: dict[int, tuple[Batch[BufferedTrajectory], dict[int, Shard]]] = {}

    def hold(self, collected: list[BufferedTrajectory]) -> None:
        """`shard` and `first` are of these from now on."""
        self._collected, self._collected_shards = collected, []

    def shard(self, rank: int) -> list[BlockRows]:
        """A rank's part of what was collected; balanced by tokens, deterministic."""
        if not self._collected_shards:
            self._collected_shards = shards(self._collected, self._cfg.learner.ranks)
        return self._collected_shards[rank].rows

    def first(self, n: int) -> list[BlockRows]:
        """The first n of what was collected, by id."""
        return [t.rows for t in sorted(self._collected, key=lambda t: t.summary.id)[:n]]

    def deal(self, update: int, batch: Batch[BufferedTrajectory]) -> None:
        """Divide a batch among the ranks, by the minibatches that the learner will make of it."""
        cfg = self._cfg
        trained = [t.summary.id for t in batch.results if t.summary.action_tokens]
        steps = update_minibatches(trained, cfg.ppo, cfg.seed, update - 1)
        by_block = cfg.ppo.max_staleness > 0  # at 0 a run can be repeated to the bit
        own = shards(batch.results, cfg.learner.ranks, steps, by_block=by_block)
        self._batches[update] = batch, dict(enumerate(own))

    def __contains__(self, update: int) -> bool:
        """Whether the batch of an update was dealt, and a rank has not taken its share yet."""
        return update in self._batches

    def take(self, update: int, rank: int, states: dict[str, int]) -> Share:
        """A rank's share of a batch, once.

        states: how many episodes are where now.
        """
        batch, own = self._batches[update]
        shard = own.pop(rank)
        if not own:
            del self._batches[update]
        played = of_all_played(batch)
        return Share(*shard, played, batch.staleness, batch.failed, batch.next_group, states)
