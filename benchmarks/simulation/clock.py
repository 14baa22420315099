"""Virtual time: a queue of events, threads that wait in it, and how busy engines were.

Events are due in seconds of work. Where all share the cores of one machine, more threads than cores
make all of them slower alike, and a second of work takes longer than a second.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Generator
from itertools import count

Wait = float | Callable[[], bool]  # seconds of work, or what must be true


class Clock:
    """The present, and what is due.

    now: seconds since the begin.
    work: the same without what was lost to other threads on the same cores.
    threads: that are busy now.
    busy_engines, in_flight: now; engine_s, filled_s: their sums over time.
    """

    def __init__(self, cores: float = math.inf) -> None:
        self._cores, self._order = cores, count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = self.work = self.threads = 0.0
        self.busy_engines = self.in_flight = 0
        self.forget()

    def forget(self) -> None:
        """Begin to sum anew."""
        self.engine_s = self.filled_s = 0.0

    def after(self, seconds: float, happen: Callable[[], None]) -> None:
        """Have something happen after so many seconds of work."""
        self.at(self.work + seconds, happen)

    def at(self, work: float, happen: Callable[[], None]) -> None:
        """Have something happen at that time."""
        heapq.heappush(self._events, (work, next(self._order), happen))

    def run_next(self) -> None:
        """Go on to the next event, which happens."""
        work, _, happen = heapq.heappop(self._events)
        seconds = (work - self.work) * max(1.0, self.threads / self._cores)
        self.engine_s += self.busy_engines * seconds
        self.filled_s += self.in_flight * seconds
        self.now, self.work = self.now + seconds, work
        happen()


class Process:
    """What one thread does, written down as a generator of its waits."""

    def __init__(self, clock: Clock, steps: Generator[Wait, None, None]) -> None:
        self._clock, self._steps = clock, steps
        self._condition: Callable[[], bool] | None = None

    def go_on(self) -> None:
        """The wait is over: go on to the next one that is not over at once."""
        for wait in self._steps:
            if not callable(wait):
                self._clock.after(wait, self.go_on)
                return
            if not wait():
                self._condition = wait
                return

    def look(self) -> None:
        """Something has changed: go on if it is what the process waits for."""
        condition, self._condition = self._condition, None
        if condition is None:
            return
        if condition():
            self.go_on()
        else:
            self._condition = condition
