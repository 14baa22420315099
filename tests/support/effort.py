"""What work costs on any machine: its CPU time in turns of a plain loop that is run beside it."""

from __future__ import annotations

import time
from collections.abc import Callable

TURNS = 20_000


def assert_turns(work: Callable[[], object], most: float) -> None:
    """Assert that work costs at most so many turns, each of some 30 ns on a machine of 2025.

    Noise only adds: the best of up to six tries counts.
    """
    cost = float("inf")
    for _ in range(6):
        cost = min(cost, _seconds(work) / _turn_s())
        if cost <= most:
            return
    raise AssertionError(f"it costs {cost:,.0f} turns of a plain loop, more than {most:,.0f}")


def _turn_s() -> float:
    return min(_seconds(_loop) for _ in range(3)) / TURNS


def _loop() -> None:
    total = 0
    for i in range(TURNS):
        total = (total + i) % 1_000_003


def _seconds(work: Callable[[], object]) -> float:
    """Of this thread alone."""
    begin = time.thread_time()
    work()
    return time.thread_time() - begin
