"""A run's engines without Ray, for whom weights are published, in virtual time."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.failures import SourceLost
from cluster.handles import BlockRows
from cluster.workers import engine_weights
from cluster.workers.engine_weights import EngineWeights
from configs.schema import RunConfig
from rollout.episode import EpisodeRequest
from tests.support import virtual_time


class Worker:
    """Notes what it receives; `errors` are met one after another, None is a success.

    gone: blocks that have died with their node.
    """

    def __init__(self):
        self.received, self.replayed, self.errors = [], [], []
        self.apart, self.tokens, self.gone = 0.0, 11, set()
        self.loading = asyncio.Event()
        self.loading.set()
        self.receive = SimpleNamespace(remote=self._receive)
        self.replay = SimpleNamespace(remote=self._replay)

    async def _receive(self, version, refs):
        await self.loading.wait()
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.received.append((version, refs))
        return 0.5

    async def _replay(self, requests, rows):
        self.replayed.append(([r.id for r in requests], rows))
        if self.gone & {row.block for row in rows}:
            raise SourceLost("it could not play episodes again: ObjectLostError")
        await asyncio.sleep(0.5)
        return None if self.tokens is None else (self.apart, self.tokens)


class Fleet:
    """A supervisor: all workers are present, two nodes; errors of workers are passed on."""

    def __init__(self, workers):
        self.workers, self.gone, self.asked, self.notes = workers, set(), [], []
        self.nodes = ["a", "a", "b"]

    def present(self):
        return [i for i in range(len(self.workers)) if i not in self.gone]

    def note(self, kind, index, cause):
        self.notes.append((kind, index, cause))

    async def ask(self, index, what, ref, seconds, key):
        self.asked.append((index, what, seconds, key))
        return await ref


def played(scenario, staleness=0, updates=1000, **cluster):
    async def run():
        cfg = RunConfig()
        ppo = replace(cfg.ppo, max_staleness=staleness, updates=updates)
        cfg = replace(cfg, cluster=replace(cfg.cluster, **cluster), ppo=ppo)
        workers = [Worker() for _ in range(3)]
        fleet = Fleet(workers)
        weights = EngineWeights(workers, cfg, fleet)
        changes = []

        async def loaded():
            changes.append(list(weights.versions))

        await scenario(weights, workers, fleet, changes, loaded)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_weights, "time", SimpleNamespace(monotonic=virtual_time.now))
        virtual_time.run(run())


def sample(weights, number, version=7, temperature=1.0):
    request = EpisodeRequest(f"x/{number}", "rollout", 1, 1, temperature=temperature)
    weights.keep_sample(request, BlockRows(f"block {number}", [number], 0), version)
