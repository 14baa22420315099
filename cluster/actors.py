"""The rollout actor: Ray's shell around `rollout.worker.RolloutWorker`.

Comes in: episode requests and weight references; goes out: blocks, each one object, and few
numbers. What is played and how stands in rollout/.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import ray

from configs.schema import RunConfig
from rollout.episode import EpisodeLimits, EpisodeRequest

CONCURRENT_CALLS = 32  # a call that waits (next_block) must not keep weights or health out


@ray.remote(max_concurrency=CONCURRENT_CALLS)  # type: ignore[call-overload]
class RolloutActor:
    """One engine and the episodes on it."""

    def __init__(
        self,
        cfg: RunConfig,
        folder: str,
        environments: dict[str, tuple[str, dict[str, Any]]],
        channel: str = "object_store",
    ) -> None:
        # vLLM and transformers are imported here, in the actor's own process only.
        from rollout.engine import EngineSettings
        from rollout.renderer import Renderer
        from rollout.worker import RolloutWorker

        self._starting = asyncio.Lock()
        renderer = Renderer.load(folder)
        rollout = cfg.rollout
        settings = EngineSettings(
            folder=folder,
            dtype=cfg.model.dtype,
            max_sequences=rollout.in_flight,
            context_tokens=rollout.context_tokens,
            forbidden=renderer.forbidden,
            stop_ids=renderer.stop_ids,
            images=1 if renderer.processor else 0,
            kv_cache_gib=rollout.kv_cache_gib,
            gpu_memory=rollout.gpu_memory,
            tensor_parallel=rollout.tensor_parallel,
            threads=rollout.threads,
            seed=cfg.seed,
            channel=channel,
            sleep_mode=cfg.cluster.layout == "colocated",
        )
        self.worker = RolloutWorker(
            settings, renderer, environments, _limits(cfg), rollout.in_flight, rollout.block
        )

    async def start(self) -> int:
        """Start the engine, once; every caller waits for it. Returns the process id."""
        async with self._starting:
            if self.worker.engine is None:
                await self.worker.start()
        return os.getpid()

    async def reconfigure(
        self, cfg: RunConfig, environments: dict[str, tuple[str, dict[str, Any]]]
    ) -> None:
        """Forget the last run, and play these environments for the next, whose weights come."""
        await self.worker.reconfigure(environments, _limits(cfg))

    async def node(self) -> str:
        """Ray's id of the node that this actor is on."""
        return str(ray.get_runtime_context().get_node_id())

    async def submit(self, requests: list[EpisodeRequest]) -> None:
        """Queue episodes."""
        await self.worker.submit(requests)

    @ray.method(num_returns=2)
    async def next_block(self) -> tuple[Any, Any]:
        """The next Arrow block and its trajectories' numbers, as two objects."""
        return await self.worker.next_block()

    async def receive(self, version: int, refs: list[Any]) -> float:
        """Replace the weights by those of the referenced buckets; returns seconds."""
        begin = time.monotonic()
        await self.worker.receive(version, [await ref for ref in refs])
        return time.monotonic() - begin

    async def join(self, info: dict[str, Any]) -> None:
        """Join the learner's weight channel."""
        await self._engine().init_weight_transfer(info)

    async def begin_update(self) -> None:
        """Prepare the engine for new weights."""
        await self._engine().start_weight_update()

    async def update(self, message: dict[str, Any]) -> None:
        """Load weights of which the channel's message tells."""
        await self._engine().update_weights(message)

    async def finish_update(self, version: int) -> None:
        """Play on under the new weights."""
        await self._engine().finish_weight_update(version)

    async def sleep(self) -> None:
        """Leave the GPUs to the learner until the next weights come."""
        await self._engine().sleep()

    def _engine(self) -> Any:
        assert self.worker.engine is not None, "start() first"
        return self.worker.engine

    async def take_load(self) -> tuple[float, float]:
        """Mean sequences running and busy seconds of the engine since the last call."""
        return self.worker.pop_load()

    async def shutdown(self) -> None:
        """End the engine's processes; the actor itself ends with its handle."""
        await self.worker.shutdown()


def _limits(cfg: RunConfig) -> EpisodeLimits:
    rollout = cfg.rollout
    return EpisodeLimits(
        rollout.answer_tokens, rollout.context_tokens, cfg.cluster.episode_deadline_s
    )
