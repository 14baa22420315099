"""How busy an engine is, from vLLM's scheduler statistics: as numbers, and as spans."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

from opentelemetry import trace

TRACER = trace.get_tracer("cardinal")


class SchedulerStats(Protocol):
    """What is read of vLLM's own."""

    num_running_reqs: int


class IterationStats(Protocol):
    """What is read of vLLM's own."""

    num_generation_tokens: int


class EngineLoad(NamedTuple):
    """How busy an engine was since its begin, or between two times (`after`).

    begin: on the clock of its machine; tells it from another one in its place.
    running_s: seconds of all sequences while the engine was busy.
    busy_s: seconds in which it had a request and was not paused.
    seconds: in all.
    tokens: that were sampled.
    """

    begin: float
    running_s: float
    busy_s: float
    seconds: float
    tokens: int

    @property
    def mean_running(self) -> float:
        """Sequences, while the engine was busy."""
        return self.running_s / max(self.busy_s, 1e-9)

    def after(self, earlier: EngineLoad) -> EngineLoad:
        """What has been added since; all, where the earlier load is that of another engine."""
        if self.begin != earlier.begin:
            return self
        return EngineLoad(
            self.begin,
            self.running_s - earlier.running_s,
            self.busy_s - earlier.busy_s,
            self.seconds - earlier.seconds,
            self.tokens - earlier.tokens,
        )


class LoadRecorder:
    """Time-weighted mean of running sequences, from vLLM's scheduler statistics.

    Busy is an engine that has a request: vLLM counts one as running once its first step is done.
    What the engine does is a span on a track of its own.

    state: busy, idle, paused, loading or asleep.
    """

    def __init__(self) -> None:
        self._requests = self._running = 0
        self._weighted, self._busy, self._tokens = 0.0, 0.0, 0
        self._halt = ""  # why no sequence advances, if none does
        self.state = ""
        self._span: trace.Span = trace.INVALID_SPAN
        self._since = self._begin = time.monotonic()
        self._show()

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

    def requests(self, more: int) -> None:
        """The engine has so many requests more, or less."""
        self._advance()
        self._requests += more
        self._show()

    def pause(self) -> None:
        """Sequences in flight wait from now on: the engine is not busy."""
        self._halted("paused")

    def load(self) -> None:
        """New weights are loaded meanwhile."""
        self._halted("loading")

    def sleep(self) -> None:
        """The engine sleeps until new weights are loaded."""
        self._halted("asleep")

    def resume(self) -> None:
        """Sequences continue."""
        self._halted("")

    def _halted(self, why: str) -> None:
        self._advance()
        self._halt = why
        self._show()

    def _show(self) -> None:
        state = self._halt or ("busy" if self._requests else "idle")
        if state != self.state:
            self._span.end()
            self.state = state
            self._span = TRACER.start_span(state, attributes={"track": "engine"})

    def _advance(self) -> None:
        now = time.monotonic()
        if self._requests and not self._halt:
            self._weighted += self._running * (now - self._since)
            self._busy += now - self._since
        self._since = now

    def total(self) -> EngineLoad:
        """The load since the begin."""
        self._advance()
        seconds = self._since - self._begin
        return EngineLoad(self._begin, self._weighted, self._busy, seconds, self._tokens)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""

    def log(self) -> None:
        """Nothing to say."""
