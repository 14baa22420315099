"""A rollout worker: one engine, M episodes in flight, finished trajectories in Arrow blocks.

`submit` queues requests, `next_block` returns their trajectories as they finish, a block at a time.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from rollout.engine import EngineFailure, InferenceEngine
from rollout.engine_load import EngineLoad
from rollout.engine_settings import EngineSettings
from rollout.environments import EnvironmentPool, Environments, ProcessLimits
from rollout.episode import EpisodeLimits, EpisodeRequest, run_episode
from rollout.renderer import Renderer
from rollout.trajectory import Block, Trajectory, to_block
from rollout.trajectory_summary import SummaryColumns, summarize, to_columns

BLOCK_AGE_S, MOST_AGE_S = 0.2, 5.0  # for which a finished trajectory waits for its block's rest
PARTIAL_BLOCKS_PER_S = 10.0  # of all workers, where that age allows it


def block_age_s(workers: int) -> float:
    """How long a finished trajectory waits for the rest of its block, beside so many workers.

    One buffer serves them all, and a block costs it the same, however few trajectories it holds.
    """
    return min(MOST_AGE_S, max(BLOCK_AGE_S, workers / PARTIAL_BLOCKS_PER_S))


class RolloutWorker:
    """Runs requested episodes on one engine.

    limits, process_limits: of its episodes, and of the processes of their environments.
    in_flight: most episodes at once (M).
    block_size: trajectories of a full block.
    block_age_s: how long a finished trajectory waits for it to be full.

    Attributes:
        drops: how often all episodes were dropped.
    """

    def __init__(
        self,
        settings: EngineSettings,
        renderer: Renderer,
        environments: Environments,
        limits: EpisodeLimits,
        process_limits: ProcessLimits,
        in_flight: int,
        block_size: int,
        block_age_s: float = BLOCK_AGE_S,
    ) -> None:
        self._settings = settings
        self._renderer = renderer
        self._limits = limits
        self._in_flight = in_flight
        self._block_size, self._block_age_s = block_size, block_age_s
        self._environments = EnvironmentPool(environments, process_limits, in_flight)
        self._queue: deque[EpisodeRequest] = deque()
        self._done: list[Trajectory] = []
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._error: BaseException | None = None
        self.drops = 0
        self.engine: InferenceEngine | None = None

    def begin_environments(self) -> None:
        """Have what environments need imported, while the engine starts."""
        self._environments.begin()

    async def start(self) -> None:
        """Start the engine; raises EngineFailure."""
        self.engine = await InferenceEngine.start(self._settings)
        # What vLLM and its libraries hold stays: a collection need not go through it again and
        # again while episodes are played. vLLM's own server does the same.
        gc.collect()
        gc.freeze()

    async def reconfigure(
        self,
        environments: Environments,
        limits: EpisodeLimits,
        process_limits: ProcessLimits,
    ) -> None:
        """Drop all episodes; the next ones are of these environments."""
        await self.drop()
        if not self._environments.unused(environments, process_limits):
            await self._environments.close()
            self._environments = EnvironmentPool(environments, process_limits, self._in_flight)
        self._limits = limits

    async def drop(self) -> None:
        """Forget all episodes: queued, in flight and finished.

        At once: what is submitted while those in flight come to their end is kept.
        """
        self.drops += 1
        self._done.clear()
        await self._cancel()
        async with self._changed:
            self._changed.notify_all()  # who waits for one of them gets no later one

    async def submit(self, requests: Iterable[EpisodeRequest]) -> None:
        """Queue episodes; at most M are in flight."""
        self._queue.extend(requests)
        self._fill()

    async def next_block(self) -> tuple[Block, SummaryColumns]:
        """Wait for a full block, or for its age and then for any finished trajectory.

        Returns:
            The block, and the summaries of its trajectories: none where nothing is in flight, or
            all that was in flight at the call has been dropped.

        Raises:
            rollout.engine.EngineFailure: the engine was lost.
        """
        drops = self.drops
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._block_age_s), self._changed:
                    await self._changed.wait_for(lambda: self._block_ready() or drops != self.drops)
            if self._error is not None:
                raise self._error
            if drops != self.drops:
                return to_block([]), to_columns([])
            if self._done or not self._running:
                break
        block, self._done = self._done[: self._block_size], self._done[self._block_size :]
        return to_block(block), to_columns([summarize(t) for t in block])

    def total_load(self) -> EngineLoad:
        """The engine's load since its start."""
        assert self.engine is not None, "start() first"
        return self.engine.total_load()

    async def shutdown(self) -> None:
        """End episodes, environments and engine."""
        await self._cancel()
        await self._environments.close()
        if self.engine is not None:
            await self.engine.shutdown()

    async def _cancel(self) -> None:
        self._queue.clear()
        running, self._running = self._running, set()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _block_ready(self) -> bool:
        last = bool(self._done) and not self._running
        return len(self._done) >= self._block_size or last or self._error is not None

    def _fill(self) -> None:
        while self._queue and len(self._running) < self._in_flight and self._error is None:
            task = asyncio.ensure_future(self._run(self._queue.popleft()))
            self._running.add(task)

    async def _run(self, request: EpisodeRequest) -> None:
        assert self.engine is not None, "start() first"
        drops, trajectory = self.drops, None
        try:
            trajectory = await run_episode(
                request, self._environments, self.engine, self._renderer, self._limits
            )
        except Exception as error:  # noqa: BLE001 - a task's boundary; next_block raises it
            if drops == self.drops or isinstance(error, EngineFailure):  # else it is forgotten too
                self._error = error
        self._running.discard(asyncio.current_task())
        if trajectory is not None and drops == self.drops:  # it may end before it is cancelled
            self._done.append(trajectory)
        self._fill()
        if self._block_ready():
            async with self._changed:
                self._changed.notify_all()
