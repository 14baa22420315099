"""Simulated rollout actors: many workers in few processes, each with a handle of its own.

The trajectory buffer calls them as it calls a `cluster.actors.RolloutActor`.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import ray
from ray import ObjectRef

from benchmarks.simulation.durations import Speeds
from benchmarks.simulation.engine import simulated_worker
from cluster.handles import BlockRows, Environments, Finished, PackedBucket
from cluster.placement.ray_options import IN_OBJECT_STORE
from configs.schema import RunConfig
from rollout.engine_load import EngineLoad
from rollout.episode import EpisodeRequest
from rollout.trajectory import Block
from rollout.worker import block_age_s

ENGINES_OF_A_NODE = 8  # load weights one after another
CALLS = 1000  # at once, of all workers of a process
METHODS = (
    *("start", "reconfigure", "node", "heartbeat", "enter", "submit", "next_block", "replay"),
    *("receive", "total_load", "shutdown"),
)


@ray.remote(num_cpus=0, max_concurrency=CALLS, runtime_env=IN_OBJECT_STORE)
class SimulatedActor:
    """A process with several workers; calls name theirs by number."""

    def __init__(self, cfg: RunConfig, speeds: Speeds, workers: list[int]) -> None:
        rollout = cfg.rollout
        sizes = rollout.in_flight, rollout.block, block_age_s(rollout.workers)
        self._workers = {w: simulated_worker(speeds, *sizes) for w in workers}
        self._epochs = dict.fromkeys(workers, 0)

    async def start(self, worker: int) -> int:
        """As of RolloutActor."""
        return os.getpid()

    async def reconfigure(self, worker: int, cfg: RunConfig, environments: Environments) -> None:
        """As of RolloutActor."""

    async def heartbeat(self, worker: int, seconds: float) -> int:
        """As of RolloutActor."""
        await asyncio.sleep(seconds)
        return os.getpid()

    async def node(self, worker: int) -> str:
        """Where it would be."""
        return f"node {worker // ENGINES_OF_A_NODE}"

    async def enter(self, worker: int, epoch: int) -> None:
        """As of RolloutActor."""
        if epoch > self._epochs[worker]:
            self._epochs[worker] = epoch
            await self._workers[worker].drop()

    async def submit(self, worker: int, epoch: int, requests: list[EpisodeRequest]) -> None:
        """As of RolloutActor."""
        await self.enter(worker, epoch)
        if epoch == self._epochs[worker]:
            await self._workers[worker].submit(requests)

    @ray.method(num_returns=2)
    async def next_block(
        self, worker: int, epoch: int, requests: list[EpisodeRequest]
    ) -> tuple[Block, Finished]:
        """As of RolloutActor."""
        await self.submit(worker, epoch, requests)
        block, columns = await self._workers[worker].next_block()
        return block, Finished(epoch=self._epochs[worker], columns=columns)

    async def replay(
        self, worker: int, requests: list[EpisodeRequest], played: list[BlockRows]
    ) -> tuple[float, int]:
        """As of RolloutActor; there are no log-probabilities that could differ."""
        return 0.0, len(requests)

    async def receive(
        self, worker: int, version: int, refs: list[ObjectRef[PackedBucket]]
    ) -> float:
        """As of RolloutActor."""
        buckets = [await ref for ref in refs]
        return await self._workers[worker].engine.receive(version, buckets)

    async def total_load(self, worker: int) -> EngineLoad:
        """As of RolloutActor."""
        return self._workers[worker].total_load()

    async def shutdown(self, worker: int) -> None:
        """As of RolloutActor."""
        await self._workers[worker].shutdown()


@dataclass(frozen=True)
class _Method:
    """A method of one worker of an actor."""

    actor: ray.actor.ActorHandle
    name: str
    worker: int

    def remote(self, *args: object) -> object:
        return getattr(self.actor, self.name).remote(self.worker, *args)


class SimulatedHandle:
    """As a `cluster.handles.RolloutWorkerHandle`."""

    def __init__(self, actor: ray.actor.ActorHandle, worker: int) -> None:
        for name in METHODS:
            setattr(self, name, _Method(actor, name, worker))


def start_workers(cfg: RunConfig, speeds: Speeds, processes: int) -> list[SimulatedHandle]:
    """Handles of all workers of a configuration, spread over the processes."""
    numbers = range(cfg.rollout.workers)
    actors = [
        SimulatedActor.remote(cfg, speeds, list(numbers[p::processes]))  # type: ignore[attr-defined]
        for p in range(processes)
    ]
    return [SimulatedHandle(actors[n % processes], n) for n in numbers]
