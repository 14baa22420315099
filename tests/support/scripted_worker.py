"""Scripted rollout actors: what one answers to its supervisor, and one that plays."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import ray

from cluster.handles import Finished
from rollout.trajectory import to_block
from rollout.trajectory_summary import summarize, to_columns
from tests.support.ray_actors import ScriptedWorkerBase
from tests.support.trajectories import mark_failed, segment, trajectory


@ray.remote(max_concurrency=8, num_cpus=0, max_restarts=-1)
class ScriptedWorker(ScriptedWorkerBase):
    """Answers like a RolloutActor: blocks of three, behaviour by the request's variant."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self.queue, self.played, self.version, self.loading = [], [], -1, []
        self.epoch = 0

    async def forget(self):
        """Begin another test, once what was asked for in the last one has come and gone."""
        self.epoch = -1  # ends what hangs
        await asyncio.sleep(0.3)
        self._begin()

    async def submit(self, epoch, requests):
        await self.enter(epoch)
        self.queue += requests if epoch == self.epoch else []

    async def enter(self, epoch):
        if epoch > self.epoch:
            self.queue.clear()
            self.epoch = epoch

    async def replay(self, requests, rows):
        self.loading.append([request.id for request in requests])
        return 0.0, 7

    async def receive(self, version, refs):
        self.loading.append(time.monotonic())
        await asyncio.sleep(0.2)
        self.version = version
        return 0.2

    @ray.method(num_returns=2)
    async def next_block(self, epoch, requests):
        await self.submit(epoch, requests)
        if not self.queue:
            await asyncio.sleep(0.05)
        block, self.queue = self.queue[:3], self.queue[3:]
        played = [await self._play(r) for r in block]
        columns = to_columns([summarize(t) for t in played])
        return to_block(played), Finished(epoch=self.epoch, columns=columns)

    async def _play(self, request):
        self.played.append((request.id, self.version))
        if request.variant == "dies" or first_time(request.variant):
            os._exit(1)
        if request.variant == "hangs":
            epoch = self.epoch
            for _ in range(600):
                await asyncio.sleep(0.1 * (epoch == self.epoch))
        length = 5 + request.seed % 17
        made = segment([(2, length)], length)
        made.policy_versions[2:length] = self.version
        t = trajectory(request.id, (made,), variant=request.variant)
        return mark_failed(t, "a card fell off") if request.variant == "fails" else t

    def seen(self):
        return self.played, self.loading


def first_time(variant):
    """Whether `dies once` is said with a file that is not there yet; it is then."""
    words, _, file = variant.partition(": ")
    if words != "dies once" or Path(file).exists():
        return False
    Path(file).touch()
    return True
