"""Trajectory buffers with workers in the test's own process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.stream import buffer as module
from cluster.stream.buffer import TrajectoryBuffer
from rollout.episode import EpisodeRequest
from tests.support.fake_worker import Epoch, FakeWorker, settle
from tests.support.learner import config

Buffer = TrajectoryBuffer.__ray_metadata__.modified_class
EPISODES = 12  # of an update, in `config`


async def made(workers=1, rate=0.1, flight=64, **ppo):
    """(buffer of two ranks, its calls in its first epoch, its workers); none was lost before it."""
    cfg = config(**{"updates": 9} | ppo)
    cluster = replace(cfg.cluster, max_failure_rate=rate, block_deadline_s=60.0)
    rollout = replace(cfg.rollout, in_flight=flight, block=2)
    learner = replace(cfg.learner, ranks=2)
    cfg = replace(cfg, cluster=cluster, rollout=rollout, learner=learner)
    staff = [FakeWorker() for _ in range(workers)]
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.ray, "get_runtime_context", lambda: context)
        buffer = Buffer(staff, cfg)
    await buffer.start()
    return buffer, await entered(buffer), staff


async def entered(buffer):
    """Begin an epoch."""
    await buffer.reset()
    await settle()
    return Epoch(buffer)


def requests(n, begin=0):
    return [EpisodeRequest(f"x/{i:02d}", "v", i, i) for i in range(begin, begin + n)]


async def begun(call):
    """A call of the buffer's that goes on by itself."""
    task = asyncio.ensure_future(call)
    await settle()
    return task
