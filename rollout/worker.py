"""A rollout worker: one engine, M episodes in flight, finished trajectories in Arrow blocks.

Requests are queued by `submit` and leave by `next_block`; the queue outlives a block, so the
engine's batch does not drain between blocks. It does not know Ray or the learner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import registry
from envs.base import TextEnv
from rollout.bucket import Header
from rollout.engine import EngineSettings, InferenceEngine
from rollout.episode import EpisodeRequest, Limits, play
from rollout.renderer import Renderer
from rollout.trajectory import Block, Trajectory, to_block
from rollout.trajectory_summary import compress, numbers


class RolloutWorker:
    """Plays requested episodes on one engine.

    environments: variant name to (environment id, settings).
    """

    def __init__(
        self,
        settings: EngineSettings,
        renderer: Renderer,
        environments: dict[str, tuple[str, dict[str, Any]]],
        limits: Limits,
        in_flight: int,
        block: int,
    ) -> None:
        self._settings = settings
        self._renderer = renderer
        self._environments = environments
        self._limits = limits
        self._in_flight = in_flight
        self._block = block
        self._idle: dict[str, list[TextEnv]] = {name: [] for name in environments}
        self._queue: deque[EpisodeRequest] = deque()
        self._done: list[Trajectory] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._error: BaseException | None = None
        self.engine: InferenceEngine | None = None

    async def start(self) -> None:
        """Start the engine; raises EngineFailure."""
        self.engine = await InferenceEngine.start(self._settings)

    async def reconfigure(
        self, environments: dict[str, tuple[str, dict[str, Any]]], limits: Limits
    ) -> None:
        """Forget all episodes, and play these environments from now on."""
        self._queue.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        self._done.clear()
        self._environments, self._limits = environments, limits
        self._idle = {name: [] for name in environments}
        self.take_load()

    async def submit(self, requests: Iterable[EpisodeRequest]) -> None:
        """Queue episodes; up to M of all that are queued are in flight."""
        self._queue.extend(requests)
        self._fill()

    async def next_block(self) -> tuple[Block, dict[str, Any]]:
        """Wait for a block of finished trajectories, or for the last ones of the queue.

        Returns:
            The block, and its trajectories' packed summaries.

        Raises:
            rollout.engine.EngineFailure: the engine was lost.
            ValueError: nothing is queued or in flight.
        """
        async with self._changed:
            await self._changed.wait_for(self._block_ready)
        if self._error is not None:
            raise self._error
        if not self._done:
            raise ValueError("next_block: nothing is queued or in flight")
        block, self._done = self._done[: self._block], self._done[self._block :]
        return to_block(block), compress([numbers(t) for t in block])

    async def receive(
        self, version: int, parts: Iterable[tuple[Header, NDArray[np.uint8]]]
    ) -> None:
        """Replace the engine's weights; episodes in flight go on under the new ones."""
        assert self.engine is not None, "start() first"
        await self.engine.receive(version, parts)

    def take_load(self) -> tuple[float, float]:
        """Mean sequences running in the engine and its busy seconds since the last call."""
        assert self.engine is not None, "start() first"
        return self.engine.take_load()

    async def shutdown(self) -> None:
        """End episodes and engine."""
        for task in self._running:
            task.cancel()
        if self.engine is not None:
            await self.engine.shutdown()

    def _block_ready(self) -> bool:
        drained = not self._queue and not self._running
        return len(self._done) >= self._block or drained or self._error is not None

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._in_flight and self._error is None:
            task = asyncio.ensure_future(self._run(self._queue.popleft()))
            self._running.add(task)

    async def _run(self, request: EpisodeRequest) -> None:
        assert self.engine is not None, "start() first"
        trajectory = None
        try:
            env = self._take_env(request.variant)
            trajectory = await play(request, env, self.engine, self._renderer, self._limits)
            if trajectory.end != "failed":  # a broken environment is not used again
                self._idle[request.variant].append(env)
        except Exception as error:  # noqa: BLE001 - a task's boundary; next_block raises it
            self._error = error
        self._running.discard(asyncio.current_task())  # type: ignore[arg-type]
        if trajectory is not None:
            self._done.append(trajectory)
        self._fill()
        if self._block_ready():
            async with self._changed:
                self._changed.notify_all()

    def _take_env(self, variant: str) -> TextEnv:
        if self._idle[variant]:
            return self._idle[variant].pop()
        env_id, settings = self._environments[variant]
        return registry.make(env_id, settings)
