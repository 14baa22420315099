"""Seconds for which this process was awake, by which the silence of others is measured.

Where all processes of a machine are frozen for a minute, as a node or a virtual machine may be,
each finds the others silent for a minute when it goes on; nobody was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
