"""The trajectory buffer: references to blocks, and the summary of each trajectory in them.

It asks workers for their next block, so it owns the references, and a worker's death loses no
finished block. It never holds an array (refs-move-bytes-do-not) and admits nothing that is too
old (staleness-is-bounded).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

import ray
from ray import ObjectRef

from cluster.failures import TooManyFailures
from cluster.handles import BlockRows, RolloutWorkerHandle
from cluster.wait import wait_for_async
from rollout.episode import EpisodeRequest
from rollout.trajectory import Block
from rollout.trajectory_summary import TrajectorySummary, from_columns

T = TypeVar("T")


@dataclass(frozen=True)
class BufferedTrajectory:
    """Where a trajectory is stored, and its summary."""

    block: ObjectRef[Block]
    row: int
    summary: TrajectorySummary


@ray.remote(num_cpus=0, max_concurrency=8)  # type: ignore[call-overload]
class TrajectoryBuffer:
    """Collects requested episodes and hands them to learner ranks.

    `cluster.handles.BufferHandle` is its handle.
    """

    def __init__(
        self, workers: list[RolloutWorkerHandle], block_deadline_s: float, max_failure_rate: float
    ) -> None:
        self._workers = workers
        self._deadline = block_deadline_s
        self._max_failure_rate = max_failure_rate
        self._trajectories: list[BufferedTrajectory] = []

    async def collect(
        self, requests: list[EpisodeRequest], version: int = 0, max_staleness: int | None = None
    ) -> list[TrajectorySummary]:
        """Have the workers run episodes; replaces what the buffer held.

        Args:
            requests: the episodes; each worker gets an equal share.
            version: the learner's policy version.
            max_staleness: versions that a trajectory may lag; an older one's episode is run
                again. None admits all (evaluation).

        Returns:
            Summaries of all trajectories, failed ones too, in the order of their ids.

        Raises:
            DeadlineExceeded: a worker gave no block in time.
            WorkerLost: a worker died.
            TooManyFailures: names the first cause.
        """
        admitted: list[BufferedTrajectory] = []
        missing = {request.id: request for request in requests}
        while missing:
            left, workers = list(missing.values()), len(self._workers)
            shares = [left[i::workers] for i in range(workers)]
            played = await asyncio.gather(
                *(self._play(i, share) for i, share in enumerate(shares) if share)
            )
            fresh = [
                trajectory
                for part in played
                for trajectory in part
                if not _too_old(trajectory.summary, version, max_staleness)
            ]
            admitted += fresh
            for trajectory in fresh:
                missing.pop(trajectory.summary.id)
        admitted.sort(key=lambda trajectory: trajectory.summary.id)
        summaries = [trajectory.summary for trajectory in admitted]
        self._check_failures(summaries)
        self._trajectories = [t for t in admitted if t.summary.end != "failed"]
        return summaries

    async def _play(self, index: int, requests: list[EpisodeRequest]) -> list[BufferedTrajectory]:
        worker = self._workers[index]
        played: list[BufferedTrajectory] = []
        await self._wait(index, "take requests", worker.submit.remote(requests))
        while len(played) < len(requests):
            block, columns = worker.next_block.remote()
            summaries = from_columns(await self._wait(index, "finish a block of episodes", columns))
            played += [BufferedTrajectory(block, row, s) for row, s in enumerate(summaries)]
        return played

    async def _wait(self, index: int, what: str, ref: ObjectRef[T]) -> T:
        who = f"rollout worker {index}"
        return await wait_for_async(ref, who, what, self._deadline, "block_deadline_s")

    def _check_failures(self, summaries: list[TrajectorySummary]) -> None:
        failed = [summary for summary in summaries if summary.end == "failed"]
        if len(failed) > self._max_failure_rate * len(summaries):
            raise TooManyFailures(
                f"{len(failed)} of {len(summaries)} trajectories failed, more than "
                f"cluster.max_failure_rate = {self._max_failure_rate:g}; the first, "
                f"{failed[0].id}: {failed[0].failure}"
            )

    def shards(self, ranks: int) -> list[list[BlockRows]]:
        """The trajectories of each rank; balanced by tokens, deterministic."""
        loads = [0] * ranks
        rows: list[dict[ObjectRef[Block], list[int]]] = [{} for _ in range(ranks)]
        for trajectory in sorted(self._trajectories, key=_longest_first):
            rank = loads.index(min(loads))
            loads[rank] += trajectory.summary.tokens
            rows[rank].setdefault(trajectory.block, []).append(trajectory.row)
        return [[BlockRows(*item) for item in blocks.items()] for blocks in rows]

    def first(self, n: int) -> list[BlockRows]:
        """The first n trajectories by id."""
        by_id = sorted(self._trajectories, key=lambda trajectory: trajectory.summary.id)
        return [BlockRows(trajectory.block, [trajectory.row]) for trajectory in by_id[:n]]


def _longest_first(trajectory: BufferedTrajectory) -> tuple[int, str]:
    return -trajectory.summary.tokens, trajectory.summary.id


def _too_old(summary: TrajectorySummary, version: int, max_staleness: int | None) -> bool:
    if max_staleness is None or summary.oldest_version < 0:
        return False
    return version - summary.oldest_version > max_staleness
