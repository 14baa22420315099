"""Collecting episodes: the buffer has workers run them, and learner ranks fetch the trajectories.

Input: episode requests. Output: summaries of all of them, and on each rank the trajectories
of its own share, as views on shared memory.
"""

from __future__ import annotations

import time
from typing import TypeVar

from ray import ObjectRef

from cluster.handles import BlockRows, BufferHandle
from cluster.job import Job
from cluster.wait import wait_for, wait_for_all
from configs.schema import RunConfig
from learner import distributed
from report.metrics import Record
from rollout.episode import EpisodeRequest
from rollout.trajectory import Trajectory, from_block
from rollout.trajectory_summary import TrajectorySummary

T = TypeVar("T")


def collect(
    cfg: RunConfig,
    buffer: BufferHandle,
    requests: list[EpisodeRequest],
    version: int = 0,
    max_staleness: int | None = None,
) -> list[TrajectorySummary]:
    """Have the buffer collect; the deadline is that of all its blocks, one after another.

    Raises:
        RunFailure: as `TrajectoryBuffer.collect`.
    """
    blocks = -(-len(requests) // cfg.rollout.block) + 1
    ref = buffer.collect.remote(requests, version, max_staleness)
    seconds = cfg.cluster.block_deadline_s * blocks
    return wait_for(ref, "the buffer", "collect the episodes", seconds, "block_deadline_s")


def fetch(cfg: RunConfig, shard: list[BlockRows]) -> list[Trajectory]:
    """Fetch blocks and pick their rows; the arrays are views on shared memory.

    Raises:
        RunFailure: a block does not arrive, or is lost with the process that owned it.
    """
    refs = [ref for ref, _ in shard]
    what, seconds = "reach this node from the object store", cfg.cluster.block_deadline_s
    begin = time.monotonic()
    blocks = wait_for_all(refs, "block", what, seconds, "block_deadline_s", begin)
    trajectories = []
    for block, (_, rows) in zip(blocks, shard, strict=True):
        played = from_block(block)
        trajectories += [played[row] for row in rows]
    return trajectories


def first_trajectories(cfg: RunConfig, buffer: BufferHandle, number: int) -> list[Trajectory]:
    """The first trajectories that the buffer holds, for people to read."""
    calls = [buffer.first.remote(number)]
    (shard,) = quick_answers(cfg, calls, "the buffer", "name its first trajectories")
    return fetch(cfg, shard)


def quick_answers(cfg: RunConfig, calls: list[ObjectRef[T]], who: str, what: str) -> list[T]:
    """Answers to calls that do no work; they may stand behind one that does."""
    seconds, begin = cfg.cluster.block_deadline_s, time.monotonic()
    return wait_for_all(calls, who, what, seconds, "block_deadline_s", begin)


class Collector:
    """Training episodes for one learner rank."""

    def __init__(self, job: Job, rank: int) -> None:
        self._job, self._rank = job, rank

    def collect(self, requests: list[EpisodeRequest], version: int) -> Record:
        """Rank 0 has the episodes run; returns what no rank sees in the trajectories."""
        if self._rank != 0:
            return {}
        cfg, workers = self._job.cfg, self._job.workers
        summaries = collect(cfg, self._job.buffer, requests, version, cfg.ppo.max_staleness)
        calls = [worker.pop_load.remote() for worker in workers]
        loads = quick_answers(cfg, calls, "rollout worker", "give its load")
        return {
            "failed": sum(summary.end == "failed" for summary in summaries),
            "running": sum(mean for mean, _ in loads) / len(loads),
        }

    def fetch(self) -> list[Trajectory]:
        """This rank's trajectories of what the buffer holds, once rank 0 has collected."""
        distributed.barrier()
        cfg = self._job.cfg
        calls = [self._job.buffer.shards.remote(cfg.learner.ranks)]
        (shards,) = quick_answers(cfg, calls, "the buffer", "deal out the trajectories")
        return fetch(cfg, shards[self._rank])
