"""Coroutines in virtual time: the clock goes on only where all of them wait, and then at once.

So seconds are exact and cost nothing, however slow or disturbed the machine is. For coroutines
that wait for each other and for timers alone: no thread, process or socket.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Clock(selectors.SelectSelector):
    """Where a loop would sleep until its next timer, that timer is due at once."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "all wait for each other, and for no timer"
        self.now += timeout
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Clock()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run(work: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


def timed(work: Coroutine[Any, Any, T]) -> tuple[T, float]:
    """What `run` gives, and the seconds that went by."""

    async def within() -> tuple[T, float]:
        begin = now()
        return await work, now() - begin

    return run(within())


def freeze(seconds: float) -> None:
    """As if the process were stopped for so long: the clock goes on and nobody works."""
    asyncio.get_running_loop()._virtual.now += seconds


def now() -> float:
    """The seconds of the loop that runs."""
    return asyncio.get_running_loop().time()
