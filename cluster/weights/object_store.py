"""The object_store channel: weight buckets become objects, and every worker receives them.

Works on any machine. Each node fetches a bucket once, however many engines it holds: Ray's
object store sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import ray
import torch

from cluster.handles import RolloutWorkerHandle
from cluster.wait import wait_for_all
from cluster.weights.base import PublishResult
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from rollout.bucket import pack


class ObjectStoreChannel:
    """See WeightChannel; an engine takes its three steps within one call, `receive`."""

    def __init__(self, cfg: RunConfig, workers: list[RolloutWorkerHandle], rank: int) -> None:
        self._cluster, self._workers, self._rank = cfg.cluster, workers, rank

    def publish(self, version: int, engine: TrainingEngine) -> PublishResult | None:
        """See WeightChannel."""
        groups = engine.weights(self._cluster.sync_bucket_mib * 2**20)
        if self._rank != 0:
            for _ in groups:  # the gathering is collective
                pass
            return None
        return publish(version, groups, self._workers, self._cluster.sync_deadline_s)


def publish(
    version: int,
    groups: Iterable[list[tuple[str, torch.Tensor]]],
    workers: list[RolloutWorkerHandle],
    deadline_s: float,
) -> PublishResult:
    """Send named tensors, grouped into buckets, to all workers as `version`.

    Raises:
        DeadlineExceeded: names the worker that did not confirm.
        WorkerLost: a worker died or refused; names it and the cause.
    """
    begin = time.monotonic()
    refs, size = [], 0
    for group in groups:
        header, data = pack(group)
        refs.append(ray.put((header, data)))
        size += header.bytes
    calls = [worker.receive.remote(version, refs) for worker in workers]
    what = f"receive weights of version {version}"
    wait_for_all(calls, "rollout worker", what, deadline_s, "sync_deadline_s", begin)
    return PublishResult(version, time.monotonic() - begin, size, len(refs))
