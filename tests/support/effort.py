"""What work costs on any machine: its CPU time in turns of a plain loop that is run beside it."""

from __future__ import annotations

import resource
import subprocess
import sys
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


def assert_starts(run: Callable[[], object], most: float) -> None:
    """Assert that the processes that `run` waits for cost at most so many interpreters' starts.

    A start imports numpy: about a tenth of a second. The best of up to four tries counts.
    """
    cost = float("inf")
    for _ in range(4):
        cost = min(cost, _children_seconds(run) / _children_seconds(_start))
        if cost <= most:
            return
    raise AssertionError(f"it costs {cost:.0f} starts of an interpreter, more than {most:.0f}")


def _start() -> None:
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)


def _children_seconds(run: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
