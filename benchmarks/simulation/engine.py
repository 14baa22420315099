"""A simulated engine under the real rollout worker: answers take their time and mean nothing.

Everything around it is the run's own: the worker's queue, the episode, its segments, its block.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np

from benchmarks.simulation.durations import ANSWER_CAP, PROMPT, Speeds, answer_tokens, turns
from rollout.bucket import PackedBucket
from rollout.engine import Completion, EngineSettings
from rollout.engine_load import EngineLoad, LoadRecorder
from rollout.environments import EnvironmentStep, ProcessLimits
from rollout.episode import EpisodeLimits
from rollout.pictures import Picture
from rollout.renderer import Prompt
from rollout.worker import RolloutWorker

VOCABULARY = 1024


class SimulatedEngine:
    """Answers of seeded lengths, a token at a time for each sequence, and pauses for weights."""

    def __init__(self, speeds: Speeds) -> None:
        self._speeds, self._load = speeds, LoadRecorder()
        self._running = 0
        self._paused_s, self._paused_since = 0.0, 0.0
        self._since, self._versions = [0.0], np.array([-1])  # of weights, and when each began

    async def generate(
        self,
        prompt_ids: list[int],
        *,
        max_tokens: int,
        temperature: float,
        seed: int | None,
        pictures: tuple[Picture, ...] = (),
    ) -> Completion:
        """As `rollout.engine.InferenceEngine.generate`."""
        assert seed is not None
        tokens = min(max_tokens, answer_tokens(seed))
        begin = time.monotonic()
        self._record(1)
        await self._sample(tokens * self._speeds.token_s)
        self._record(-1, tokens)
        sampled = np.linspace(begin, time.monotonic(), tokens)
        versions = self._versions[np.searchsorted(self._since, sampled, side="right") - 1]
        token_ids = np.random.default_rng(seed).integers(0, VOCABULARY, tokens).tolist()
        return Completion(prompt_ids, token_ids, [-1.0] * tokens, versions, stopped=True)

    async def receive(self, version: int, buckets: Sequence[PackedBucket]) -> float:
        """Load weights: no sequence goes on meanwhile; returns the seconds."""
        self._load.pause()
        self._paused_since = time.monotonic()
        await asyncio.sleep(self._speeds.load_s)
        now = time.monotonic()
        seconds, self._paused_since = now - self._paused_since, 0.0
        self._paused_s += seconds
        self._since.append(now)
        self._versions = np.append(self._versions, version)
        self._load.resume()
        return seconds

    def total_load(self) -> EngineLoad:
        """As `rollout.engine.InferenceEngine.total_load`."""
        return self._load.total()

    async def shutdown(self) -> None:
        """Nothing runs."""

    async def _sample(self, seconds: float) -> None:
        """Wait until a sequence has run so long, pauses not counted."""
        end = time.monotonic() + seconds - self._paused()
        while (left := end + self._paused() - time.monotonic()) > 0:
            await asyncio.sleep(left)

    def _paused(self) -> float:
        """Seconds of all pauses until now."""
        now = time.monotonic() - self._paused_since if self._paused_since else 0.0
        return self._paused_s + now

    def _record(self, sequences: int, tokens: int = 0) -> None:
        self._running += sequences
        self._load.requests(sequences)
        self._load.record(
            SimpleNamespace(num_running_reqs=self._running),
            SimpleNamespace(num_generation_tokens=tokens),
        )


class SimulatedEnvironments:
    """An environment that ends after the turns of its seed, whatever was answered."""

    def name(self, variant: str) -> str:
        """As of EnvironmentPool."""
        return "cardinal/Simulated-v0"

    @asynccontextmanager
    async def borrow(self, variant: str) -> AsyncIterator[SimulatedEnvironment]:
        """As of EnvironmentPool."""
        yield SimulatedEnvironment()

    async def close(self) -> None:
        """As of EnvironmentPool."""


class SimulatedEnvironment:
    """One episode."""

    async def reset(self, seed: int) -> EnvironmentStep:
        """Begin it."""
        self._left = turns(seed)
        return self._step(0.0)

    async def step(self, answer: str) -> EnvironmentStep:
        """Count an answer."""
        self._left -= 1
        return self._step(1.0)

    def _step(self, reward: float) -> EnvironmentStep:
        metrics = {"success": 1.0, "first_try": 1.0}
        return EnvironmentStep("", 0, None, "", reward, not self._left, False, "", metrics)


class SimulatedRenderer:
    """Prompts of equal length; answers are not read."""

    appends = True

    def prompt(
        self, message: str, pictures: Sequence[Picture] = (), earlier: Sequence[object] = ()
    ) -> Prompt:
        """As `Renderer.prompt`."""
        return Prompt([0] * PROMPT, [0] * PROMPT)

    def follow_up(self, message: str, answer: Sequence[int]) -> list[int]:
        """As `Renderer.follow_up`."""
        return [0] * PROMPT

    def decode(self, token_ids: Sequence[int]) -> str:
        """As `Renderer.decode`."""
        return ""


def simulated_worker(
    speeds: Speeds, in_flight: int, block: int, block_age_s: float
) -> RolloutWorker:
    """The real rollout worker on a simulated engine and environment."""
    limits = EpisodeLimits(ANSWER_CAP, context_tokens=2**20, episode_deadline_s=3600.0)
    settings, renderer = EngineSettings(folder=""), SimulatedRenderer()
    worker = RolloutWorker(
        settings, renderer, {}, limits, ProcessLimits(), in_flight, block, block_age_s
    )
    worker.engine = SimulatedEngine(speeds)
    worker._environments = SimulatedEnvironments()
    return worker
