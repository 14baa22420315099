"""Watches an engine's processes: whether they are there, and whether they get anywhere.

Calls that were under way when the engine died never end by themselves: `race` ends them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import psutil

from rollout.engine import EngineFailure

LOOK_S = 0.25  # between looks at whether the processes are there
PROBES = 4  # in a heartbeat; an answer is seen at the next one
WORKING_S = 0.05  # processor seconds between two probes, from which on an engine works at something
T = TypeVar("T")


class WatchedEngine(Protocol):
    """What is watched of an engine; see `rollout.engine.InferenceEngine`."""

    def death(self) -> str | None:
        """Why its processes are gone; None while they are there."""

    async def probe(self) -> None:
        """A round trip through the loop that samples."""


class EngineWatch:
    """Tells an engine that is dead, or that hangs, from one that works or is idle.

    Its own loop answers a probe between two steps. While it does not, for a step or a load of
    weights may take long, the processor time of its processes has to grow. One that only spins
    is not told here: it misses the deadline of what it was to do.

    heartbeat_s: how long it may show neither.
    processor_seconds: of its processes so far.
    """

    def __init__(
        self,
        engine: WatchedEngine,
        heartbeat_s: float,
        processor_seconds: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._heartbeat_s, self._clock = engine, heartbeat_s, clock
        self._processor_seconds = processor_seconds
        self._lost: asyncio.Future[EngineFailure] = asyncio.get_running_loop().create_future()
        self._watching = asyncio.ensure_future(self._watch())

    def stop(self) -> None:
        """The engine ends by request: its end is no loss."""
        self._watching.cancel()

    async def race(self, work: Awaitable[T]) -> T:
        """The result of work that needs the engine.

        Raises:
            EngineFailure: the engine is lost, before the work or during it.
        """
        task = asyncio.ensure_future(work)
        either: list[asyncio.Future[Any]] = [task, self._lost]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if self._lost.done():
                raise self._lost.result()
            return task.result()
        finally:
            task.cancel()

    async def _watch(self) -> None:
        sign = probed = self._clock()
        beat = self._heartbeat_s / PROBES
        spent, probe = self._processor_seconds(), asyncio.ensure_future(self._engine.probe())
        while True:
            await asyncio.sleep(LOOK_S)
            now, death = self._clock(), self._engine.death()
            cause = None if death is None else f"vLLM died: {death}"
            if cause is None and now - probed >= beat:
                seconds = self._processor_seconds()
                answered = probe.done() and probe.exception() is None
                if answered or seconds - spent >= WORKING_S:
                    sign = now
                if probe.done():
                    probe = asyncio.ensure_future(self._engine.probe())
                spent, probed = seconds, now
                if now - sign >= beat * (PROBES - 1):
                    cause = (
                        f"the engine gave no sign of life for {self._heartbeat_s:g} s "
                        "(cluster.heartbeat_s)"
                    )
            if cause is not None:
                probe.cancel()
                self._lost.set_result(EngineFailure(cause))
                return


def processor_seconds(processes: list[psutil.Process]) -> float:
    """Processor time of processes so far; those that have ended count nothing."""
    seconds = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        seconds += times.user + times.system
    return seconds
