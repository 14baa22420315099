"""The driver's look at the trajectory buffer: whether it still gives signs of life.

Whoever waits for the buffer is told of its death by Ray, but of a hang only at a deadline for the
work that it was to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import ray
from ray import ObjectRef

from cluster.failures import DeadlineExceeded
from cluster.handles import BufferHandle
from cluster.wait import wait_for

WHO, WHAT = "the trajectory buffer", "give a sign of life"
BEATS = 4  # in a heartbeat


class BufferWatch:
    """Asks for a sign of life, one at a time."""

    def __init__(
        self,
        buffer: BufferHandle,
        heartbeat_s: float,
        start_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer, self._seconds, self._clock = buffer, heartbeat_s, clock
        self._limit, self._key = start_s, "start_deadline_s"  # its process may still start
        self._sign: ObjectRef[None] | None = None
        self._asked = clock() - heartbeat_s

    def check(self) -> None:
        """Look, without waiting.

        Raises:
            DeadlineExceeded: no sign within the heartbeat.
            WorkerLost: it is dead.
        """
        now = self._clock()
        if self._sign is None:
            if now - self._asked >= self._seconds / BEATS:
                self._sign, self._asked = self._buffer.heartbeat.remote(), now
        elif ray.wait([self._sign], timeout=0)[0]:
            sign, self._sign = self._sign, None
            wait_for(sign, WHO, WHAT, self._limit, self._key)
            self._limit, self._key = self._seconds, "heartbeat_s"
        elif now - self._asked >= self._limit:
            raise DeadlineExceeded(WHO, WHAT, self._limit, self._key)
