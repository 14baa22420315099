"""A simulated learner: ranks take batches and publish as the real ones do, and train by waiting.

Input: a job with its buffer and workers. Output: a record for each update.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from benchmarks.simulation.durations import Speeds
from cluster.job import Job
from cluster.stream.collect import Batch, Collector
from cluster.weights.base import Publishing
from cluster.weights.object_store import publish
from report.metrics import Record

WEIGHTS = [[("weights", torch.zeros(2**18))]]  # one bucket of 1 MiB


def _nowhere(kind: str, **fields: object) -> None:
    """There is no metrics file."""


class RankTimes(NamedTuple):
    """Of one rank in one update: seconds of training, and tokens that it trained on."""

    busy_s: float
    tokens: int


class SimulatedLearner:
    """The ranks are threads of this process, in lockstep; rank 0 drives, as `PPOPhase` does."""

    def __init__(self, job: Job, speeds: Speeds) -> None:
        self._job, self._speeds, self._ranks = job, speeds, job.cfg.learner.ranks
        self._lockstep = threading.Barrier(self._ranks)
        self._collectors = [Collector(job, rank, _nowhere) for rank in range(self._ranks)]
        self._times: list[RankTimes] = [RankTimes(0.0, 0)] * self._ranks
        self._publishing: Publishing | None = None
        self._over = False
        self.records: list[Record] = []

    def run(self, seconds: float) -> None:
        """Train until `seconds` have passed and the update under way has ended."""
        self._publish(0)
        self._finish()
        self._collectors[0].begin(1, 0)
        self._end = time.monotonic() + seconds
        with ThreadPoolExecutor(self._ranks, "rank") as pool:
            for rank in [pool.submit(self._run_rank, r) for r in range(self._ranks)]:
                rank.result()

    def _run_rank(self, rank: int) -> None:
        try:
            update = 0
            while not self._over:
                update += 1
                self._update(rank, update)
                self._lockstep.wait()
        except BaseException:
            self._lockstep.abort()  # the others would wait for ever
            raise

    def _update(self, rank: int, update: int) -> None:
        begin = time.monotonic()
        batch = self._collectors[rank].take(update)
        self._lockstep.wait()
        tokens = sum(trajectory.action_tokens for trajectory in batch.trajectories)
        busy = tokens * self._speeds.learner_token_s * self._ranks
        time.sleep(busy)
        self._times[rank] = RankTimes(busy, tokens)
        self._lockstep.wait()  # the gradients of all ranks are summed
        if rank == 0:
            self._publish(update)
            if self._job.cfg.ppo.max_staleness == 0:
                self._finish()
            self._record(update, batch, time.monotonic() - begin)
            self._over = time.monotonic() >= self._end

    def _record(self, update: int, batch: Batch, seconds: float) -> None:
        busy = sum(times.busy_s for times in self._times) / self._ranks
        record: Record = {
            "update": update,
            "seconds": seconds,
            "learner_idle": 1 - busy / seconds,
            "tokens": sum(times.tokens for times in self._times),
        }
        self.records.append(record | batch.record | self._collectors[0].loads())

    def _publish(self, version: int) -> None:
        self._finish()
        deadline = self._job.cfg.cluster.sync_deadline_s
        self._publishing = publish(version, WEIGHTS, self._job.buffer, deadline)

    def _finish(self) -> None:
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing()
