"""The object_store channel: weight buckets become objects, and every worker receives them.

Works on any machine. Each node fetches a bucket once, however many engines it holds: Ray's
object store sees to that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import ray
import torch

from cluster.handles import BufferHandle
from cluster.wait import wait_for
from cluster.weights.base import Publishing, PublishResult
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from rollout.bucket import pack

GRACE_S = 2.0  # so that the buffer's own error, which names the worker, is raised first


class ObjectStoreChannel:
    """See WeightChannel; an engine takes its three steps within one call, `receive`."""

    def __init__(self, cfg: RunConfig, buffer: BufferHandle, rank: int) -> None:
        self._cluster, self._buffer, self._rank = cfg.cluster, buffer, rank
        self._workers = cfg.rollout.workers

    def publish(self, version: int, engine: TrainingEngine) -> Publishing | None:
        """See WeightChannel; once it returns, the learner may change its weights."""
        # An engine holds two buckets in shared memory; together they are what the key allows.
        groups = engine.weights(self._cluster.sync_bucket_mib * 2**20 // 2)
        if self._rank != 0:
            for _ in groups:  # the gathering is collective
                pass
            return None
        # Engines of a node load one after another, each within its deadline.
        seconds = self._cluster.sync_deadline_s * self._workers
        return publish(version, groups, self._buffer, seconds)


def publish(
    version: int,
    groups: Iterable[list[tuple[str, torch.Tensor]]],
    buffer: BufferHandle,
    deadline_s: float,
) -> Publishing:
    """Put named tensors, grouped into buckets, into the object store, and send for them.

    Returns:
        A function that waits until all workers have them. It raises DeadlineExceeded or
        WorkerLost, which name the worker.
    """
    begin = time.monotonic()
    refs, size = [], 0
    for group in groups:
        bucket = pack(group)
        refs.append(ray.put(bucket))  # copies each tensor's bytes, once, into the object store
        size += bucket.header.bytes
    sent = time.monotonic() - begin
    call, count = buffer.publish.remote(version, refs), len(refs)

    def finish() -> PublishResult:
        what, seconds = f"bring weights of version {version} to all engines", deadline_s + GRACE_S
        loaded, paused = wait_for(call, "the buffer", what, seconds, "sync_deadline_s")
        return PublishResult(version, sent + loaded, size, count, sent, paused)

    return finish
