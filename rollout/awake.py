"""Seconds for which this process was awake, by which the silence of others is measured.

Where all processes of a machine are frozen for a minute, as a node or a virtual machine may be,
each finds the others silent for a minute when it goes on; nobody was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LOOK_S = 1.0  # between two looks of `time_limit`
MOMENT_S = 1e-6  # a clock may be too coarse for less to go by
AWAY_S = 2.0  # between two looks, from which on whoever looks was stopped itself; no more counts


class Awake:
    """A clock that is looked at more often than every `AWAY_S`; by how much later is no time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked, self._now = clock(), 0.0

    def __call__(self) -> float:
        """Seconds since it was made."""
        before, self._looked = self._looked, self._clock()
        self._now += min(self._looked - before, AWAY_S)
        return self._now


class TimeLimit:
    """Seconds for which what is inside may last; see `time_limit`."""

    def __init__(self, seconds: float, limit: asyncio.Timeout) -> None:
        self._seconds, self._limit = seconds, limit
        self._loop = asyncio.get_running_loop()
        self._awake, self._begun = Awake(self._loop.time), 0.0
        self.look()

    def begin_again(self, seconds: float) -> None:
        """From now on it is so many."""
        self._seconds, self._begun = seconds, self._awake()
        self.stop()
        self.look()

    def look(self) -> None:
        """End what is inside if its time is over; else look again before long."""
        left = self._seconds - (self._awake() - self._begun)
        if left > MOMENT_S:
            self._next = self._loop.call_later(min(left, LOOK_S), self.look)
        else:
            self._limit.reschedule(self._loop.time())

    def stop(self) -> None:
        """Look no more."""
        self._next.cancel()


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[TimeLimit]:
    """As `asyncio.timeout`, of seconds for which this process was awake.

    Raises:
        TimeoutError: what is inside has lasted longer.
    """
    async with asyncio.timeout(None) as timeout:
        limit = TimeLimit(seconds, timeout)
        try:
            yield limit
        finally:
            limit.stop()
