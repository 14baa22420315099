"""Publishing: a learner's weight buckets become objects, and every worker receives them.

Each node fetches a bucket once, however many engines it holds: Ray's object store sees to
that. One transfer a bucket, a deadline on the whole (law 5).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ray
import torch

from cluster.wait import answers
from rollout.bucket import pack


@dataclass(frozen=True)
class Published:
    """One publish: version, wall seconds, payload bytes and buckets."""

    version: int
    seconds: float
    bytes: int
    buckets: int


def publish(
    version: int,
    groups: Iterable[list[tuple[str, torch.Tensor]]],
    workers: list[Any],
    deadline_s: float,
) -> Published:
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
    answers(calls, "rollout worker", what, deadline_s, "sync_deadline_s", begin)
    return Published(version, time.monotonic() - begin, size, len(refs))
