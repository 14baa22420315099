"""Between learning and rollouts: weights go to the engines, or engines sleep while ranks learn.

Input: the phase's training engine. Output: all workers sample from its weights under the rank's
version. All calls are collective.
"""

from __future__ import annotations

import time
from dataclasses import asdict

import torch
from opentelemetry import trace

from cluster.phases.learner_rank import LearnerRank
from cluster.wait import wait_for_all
from cluster.weights.base import Publishing, WeightChannel
from learner import distributed
from learner.engine import TrainingEngine

TRACER = trace.get_tracer("cardinal")


class Publisher:
    """Publishes one rank's weights over a channel."""

    def __init__(self, rank: LearnerRank, channel: WeightChannel) -> None:
        self._rank, self._channel = rank, channel
        self._publishing: Publishing | None = None
        self._colocated = rank.cfg.cluster.layout == "colocated"

    def publish(self, engine: TrainingEngine) -> float:
        """Bring the weights to all workers and wake them; returns seconds, on rank 0."""
        self.begin(engine)
        return self.finish()

    def begin(self, engine: TrainingEngine) -> None:
        """Send the weights; engines load them while the learner goes on."""
        self.finish()
        if self._colocated:
            torch.cuda.empty_cache()  # what learning held, for the engines that wake
        with TRACER.start_as_current_span("publish"):
            self._publishing = self._channel.publish(self._rank.version, engine)

    def finish(self) -> float:
        """Wait until all engines have the weights that were sent last; seconds since they were.

        0 where they have been waited for, and on ranks other than 0.
        """
        publishing, self._publishing = self._publishing, None
        if publishing is None:
            return 0.0
        with TRACER.start_as_current_span("wait for weights"):
            published = publishing()
        self._rank.write("sync", **asdict(published), check=None)
        return published.seconds

    @TRACER.start_as_current_span("wait for engines")
    def sleep_engines(self) -> None:
        """Colocated engines leave their GPUs to the learner until the next publish."""
        if not self._colocated:
            return
        if self._rank.rank == 0:
            seconds, begin = self._rank.cfg.cluster.sync_deadline_s, time.monotonic()
            calls = [worker.sleep.remote() for worker in self._rank.job.workers]
            wait_for_all(calls, "rollout worker", "go to sleep", seconds, "sync_deadline_s", begin)
        distributed.barrier()  # no rank begins while an engine holds its GPU
