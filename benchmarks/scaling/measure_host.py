"""Measures what Ray and the trajectory buffer cost on this machine, on the real ones.

Engines and ranks only take time, as in `benchmarks.simulated_cluster`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from typing import NamedTuple

import ray

from benchmarks.simulated_cluster import in_real_time
from configs.paths import ROOT

BLOCKS = (2, 16)  # trajectories
SIZES = {"engines": 4, "in_flight": 32, "ranks": 1, "episodes": 256, "rate": 300.0, "processes": 1}
CALLS = 200


class BufferParts(NamedTuple):
    """See `benchmarks.scaling.parts.HostCosts`."""

    block_s: float
    buffered_s: float
    call_s: float


@ray.remote(num_cpus=0)
class _Echo:
    async def answer(self) -> None:
        """Nothing."""


def measure(seconds: float = 8.0) -> BufferParts:
    """In a Ray of its own: a run for each size of block, and calls one after another."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=2**28,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        call_s = _call_s()
        costs = []
        for block in BLOCKS:
            args = argparse.Namespace(**SIZES, block=block)
            with contextlib.redirect_stdout(io.StringIO()):
                found = in_real_time(args, 2, seconds)
            costs.append(found["buffer_microseconds_a_trajectory"] / 1e6)
    finally:
        ray.shutdown()
    return BufferParts(*split(costs, BLOCKS), call_s)


def _call_s() -> float:
    """Half of a call and its answer: one way."""
    echo = _Echo.remote()  # type: ignore[attr-defined]
    ray.get(echo.answer.remote())
    times = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        ray.get(echo.answer.remote())
        times.append(time.perf_counter() - begin)
    return statistics.median(times) / 2


def split(costs: list[float], blocks: tuple[int, int]) -> tuple[float, float]:
    """Of a block and of a trajectory in it, from two costs of a trajectory in blocks of two sizes.

    cost = trajectory + block / size.
    """
    small, large = blocks
    block_s = max(0.0, (costs[0] - costs[1]) / (1 / small - 1 / large))
    return block_s, max(0.0, costs[1] - block_s / large)
