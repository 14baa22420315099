"""An engine with continuous batching in virtual time: all of its sequences advance together.

Between two events every running sequence gets a token each decode step; prompts are read first, and
no sequence advances meanwhile.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from itertools import count

from benchmarks.simulation.costs import EngineCosts

Finish = Callable[[], None]


class VirtualEngine:
    """One engine; whoever drives it calls `advance` before anything that changes.

    version: policy version of its weights.
    requests: how many it has.
    changes: how often what it does has changed; an event of an earlier number is void.
    """

    def __init__(self, costs: EngineCosts) -> None:
        self._costs = costs
        self.version, self.changes = 0, 0
        self._progress, self._since, self._order = 0.0, 0.0, count()
        self._running: list[tuple[float, int, float, Finish]] = []  # heap, by progress at its end
        self._context, self._prefill_s, self._paused = 0.0, 0.0, False

    @property
    def requests(self) -> int:
        """How many it has."""
        return len(self._running)

    @property
    def busy(self) -> bool:
        """Whether it has a request and is not paused."""
        return bool(self._running) and not self._paused

    def _step_s(self) -> float:
        return self._costs.decode_s(len(self._running), self._context)

    def advance(self, now: float) -> None:
        """Sequences have gone on until now."""
        seconds, self._since = now - self._since, now
        if not self.busy:
            return
        reading = min(seconds, self._prefill_s)
        self._prefill_s -= reading
        self._progress += (seconds - reading) / self._step_s()

    def add(self, uncached: int, context: int, answer: int, finish: Finish) -> None:
        """A request comes.

        Args:
            uncached: tokens of its prompt that are not cached.
            context: all tokens of its prompt.
            answer: tokens that are sampled.
            finish: called at its end.
        """
        self._prefill_s += self._costs.prefill_s(uncached)
        mean = context + answer / 2  # over the answer's tokens
        end = self._progress + answer
        heapq.heappush(self._running, (end, next(self._order), mean, finish))
        self._context += mean
        self.changes += 1

    def next_end(self) -> float:
        """When the next request ends, if nothing changes before."""
        if not self.busy:
            return math.inf
        left = max(0.0, self._running[0][0] - self._progress)
        return self._since + self._prefill_s + left * self._step_s()

    def end_next(self) -> Finish:
        """The next request has ended; what it calls."""
        end, _, context, finish = heapq.heappop(self._running)
        self._progress = max(self._progress, end)  # rounding
        self._context = self._context - context if self._running else 0.0
        self.changes += 1
        return finish

    def pause(self, paused: bool) -> None:
        """Sequences stop, or go on."""
        self._paused = paused
        self.changes += 1
