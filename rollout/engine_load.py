"""How busy an engine is, from vLLM's scheduler statistics."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol


class SchedulerStats(Protocol):
    """What is read of vLLM's own."""

    num_running_reqs: int


class IterationStats(Protocol):
    """What is read of vLLM's own."""

    num_generation_tokens: int


class EngineLoad(NamedTuple):
    """How busy an engine was since it was last asked.

    mean_running: sequences, while any ran.
    busy_s: seconds in which any ran and the engine was not paused.
    seconds: since it was last asked.
    tokens: that were sampled.
    """

    mean_running: float
    busy_s: float
    seconds: float
    tokens: int


class LoadRecorder:
    """Time-weighted mean of running sequences, from vLLM's scheduler statistics."""

    def __init__(self) -> None:
        self._running, self._paused, self._weighted, self._busy = 0, False, 0.0, 0.0
        self._tokens = 0
        self._since = self._popped = time.monotonic()

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None = None,
        *_: object,
        **__: object,
    ) -> None:
        """Called by vLLM after an engine step."""
        if iteration_stats is not None:
            self._tokens += iteration_stats.num_generation_tokens
        if scheduler_stats is None:
            return
        self._advance()
        self._running = scheduler_stats.num_running_reqs

    def pause(self) -> None:
        """Sequences in flight wait from now on: the engine is not busy."""
        self._advance()
        self._paused = True

    def resume(self) -> None:
        """They continue."""
        self._advance()
        self._paused = False

    def _advance(self) -> None:
        now = time.monotonic()
        if self._running and not self._paused:
            self._weighted += self._running * (now - self._since)
            self._busy += now - self._since
        self._since = now

    def pop(self) -> EngineLoad:
        """The load since the last call."""
        self._advance()
        seconds, self._popped = self._since - self._popped, self._since
        mean = self._weighted / max(self._busy, 1e-9)
        load = EngineLoad(mean, self._busy, seconds, self._tokens)
        self._weighted, self._busy, self._tokens = 0.0, 0.0, 0
        return load

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""
