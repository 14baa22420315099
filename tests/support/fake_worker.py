"""A rollout actor in the buffer's own process: its calls wait at gates that a test opens."""

from __future__ import annotations

import asyncio
import functools

from cluster.handles import Finished
from rollout.trajectory_summary import TrajectorySummary, to_columns
from tests.support import virtual_time


def summary(name, end="terminated", version=0, tokens=5):
    failure = "a card fell off" if end == "failed" else ""
    return TrajectorySummary(name, end, failure, 1.0, tokens, 3, version, {})


class Method:
    def __init__(self, function):
        self.remote = function


class FakeWorker:
    """Answers calls while their gate is open; episodes end when the test says so."""

    def __init__(self):
        self.playing, self.received, self.epoch, self.number = [], [], 0, 0
        self.calls = 0  # that only brought requests
        self.signs = 0  # of life that it was asked for
        self.blocks = asyncio.Queue()
        self.gates = {name: asyncio.Event() for name in ("submit", "receive")}
        for gate in self.gates.values():
            gate.set()
        self.start, self.node = Method(lambda: answer(7)), Method(lambda: answer("here"))
        self.reconfigure = Method(lambda cfg, environments: answer(None))
        self.heartbeat = Method(self._heartbeat)
        self.enter, self.submit = Method(self._enter), Method(self._submit_alone)
        self.receive, self.next_block = Method(self._receive), Method(self._next_block)
        self.total_load = Method(lambda: answer("load"))
        self.error = None  # of the next `receive`

    async def _heartbeat(self, seconds):
        self.signs += 1
        await asyncio.sleep(seconds)
        return 7

    async def _enter(self, epoch):
        if epoch > self.epoch:
            self.epoch = epoch
            self.playing.clear()

    async def _submit_alone(self, epoch, requests):
        self.calls += 1
        await self._submit(epoch, requests)

    async def _submit(self, epoch, requests):
        await self.gates["submit"].wait()
        await self._enter(epoch)
        if epoch == self.epoch:
            self.playing += [request.id for request in requests]

    async def _receive(self, version, refs):
        self.received.append(version)
        await self.gates["receive"].wait()
        if self.error is not None:
            raise self.error
        return 0.5

    def _next_block(self, epoch, requests):
        self.number += 1
        return f"block {self.number}", self._block(epoch, requests)

    async def _block(self, epoch, requests):
        await self._submit(epoch, requests)
        said = await self.blocks.get()
        if isinstance(said, Exception):
            raise said
        return said

    async def finish(self, *names, version=0, end="terminated"):
        """These episodes, or all, end in one block."""
        ended = list(names or self.playing)
        self.playing = [name for name in self.playing if name not in ended]
        columns = to_columns([summary(name, end, version) for name in ended])
        self.blocks.put_nowait(Finished(epoch=self.epoch, columns=columns))
        await settle()


async def answer(value):
    return value


async def settle():
    """Until nothing more happens by itself."""
    for _ in range(100):
        await asyncio.sleep(0)


class Epoch:
    """The buffer's calls, as those make them who belong to its present epoch."""

    def __init__(self, buffer):
        self.buffer, self.number = buffer, buffer._epoch

    def __getattr__(self, name):
        return functools.partial(getattr(self.buffer, name), self.number)


def asynchronous(test):
    @functools.wraps(test)
    def run(*arguments, **options):
        virtual_time.run(asyncio.wait_for(test(*arguments, **options), 20))

    return run
