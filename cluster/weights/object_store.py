"""The object_store channel: weight buckets become objects, and every worker receives them.

Works on any machine. Each node fetches a bucket once, however many engines it holds: Ray's
object store sees to that.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable
from itertools import chain

import ray
from ray import ObjectRef

from cluster.deadlines import GRACE_S
from cluster.handles import BufferHandle
from cluster.wait import wait_for
from cluster.weights.base import Publishing, PublishResult
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from learner.gathered_weights import Bucket
from rollout.bucket import PackedBucket, pack

Refs = list[ObjectRef[PackedBucket]]


class ObjectStoreChannel:
    """See WeightChannel; an engine takes its three steps within one call, `receive`.

    What training leaves as it is is put into the object store once, and again where the weight
    proof has changed it; engines load it once. With cluster.lora_sync=adapters these are all plain
    weights; what is new in a publish are then the adapters, which `rollout.adapters` merges beside
    each engine.
    """

    def __init__(self, cfg: RunConfig, buffer: BufferHandle, rank: int) -> None:
        self._cluster, self._buffer, self._rank = cfg.cluster, buffer, rank
        self._workers = cfg.rollout.workers
        self._lasting: Refs = []
        self._lasting_of: object = None  # whose they are, and what has perturbed it

    def publish(self, version: int, engine: TrainingEngine) -> Publishing | None:
        """See WeightChannel; once it returns, the learner may change its weights."""
        # An engine holds two buckets in shared memory; together they are what the key allows.
        limit, begin = self._cluster.sync_bucket_mib * 2**20 // 2, time.monotonic()
        adapters = self._cluster.lora_sync == "adapters"
        lasting_of = weakref.ref(engine), engine.perturbed
        lasting: Iterable[Bucket] = ()
        if lasting_of != self._lasting_of:
            self._lasting, self._lasting_of = [], lasting_of
            only = {"merged": False} if adapters else {"frozen": True}
            lasting = engine.weights(limit, **only)
        groups = engine.adapters(limit) if adapters else engine.weights(limit, frozen=False)
        if self._rank != 0:
            for _ in chain(lasting, groups):  # the gathering is collective
                pass
            return None
        new, size = _put(lasting)
        self._lasting += new
        refs, more = _put(groups)
        # Engines of a node load one after another, each within its deadline.
        seconds = self._cluster.sync_deadline_s * self._workers
        payload = size + more, len(new + refs)
        return _send(version, self._lasting + refs, payload, begin, self._buffer, seconds)


def publish(
    version: int, groups: Iterable[Bucket], buffer: BufferHandle, deadline_s: float
) -> Publishing:
    """Put named tensors, grouped into buckets, into the object store, and send for them.

    Returns:
        A function that waits until all workers have them. It raises DeadlineExceeded or
        WorkerLost, which name the worker.
    """
    begin = time.monotonic()
    refs, size = _put(groups)
    return _send(version, refs, (size, len(refs)), begin, buffer, deadline_s)


def _put(groups: Iterable[Bucket]) -> tuple[Refs, int]:
    """References to buckets in the object store, and their bytes."""
    refs, size = [], 0
    for group in groups:
        bucket = pack(group)
        refs.append(ray.put(bucket))  # copies each tensor's bytes, once, into the object store
        size += bucket.header.bytes
    return refs, size


def _send(
    version: int,
    refs: Refs,
    payload: tuple[int, int],
    begin: float,
    buffer: BufferHandle,
    deadline_s: float,
) -> Publishing:
    """Send for buckets; the payload is the bytes and the number of those that are new."""
    sent = time.monotonic() - begin
    call = buffer.publish.remote(version, refs)

    def finish() -> PublishResult:
        what, seconds = f"bring weights of version {version} to all engines", deadline_s + GRACE_S
        loaded, paused = wait_for(call, "the buffer", what, seconds, "sync_deadline_s")
        return PublishResult(version, sent + loaded, *payload, sent, paused)

    return finish
