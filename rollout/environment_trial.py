"""An environment played as a run plays it: in a process of its own, by answers of no use.

Input: its id and settings. Output: how long its calls take, or the first failure.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from dataclasses import dataclass

from envs.base import EnvironmentFailure
from envs.contract import NASTY
from rollout.environments import EnvironmentPool, EnvironmentStep, ProcessLimits


@dataclass(frozen=True)
class Trial:
    """What a few episodes took.

    calls, mean_s, slowest_s: of reset and step. make_s: until the first environment was made.
    unended: episodes that went on after the most turns.
    """

    episodes: int
    calls: int
    make_s: float
    mean_s: float
    slowest_s: float
    unended: int


async def trial(
    env_id: str,
    settings: dict[str, object],
    episodes: int,
    max_turns: int,
    limits: ProcessLimits,
) -> Trial:
    """Play the episodes of seeds 0, 1, … one after another.

    Raises:
        EnvironmentFailure: the first failure, with its seed.
    """
    pool = EnvironmentPool({"trial": (env_id, settings)}, limits, 1)
    seconds: list[float] = []
    made: list[float] = []
    unended, begin, seed = 0, time.perf_counter(), 0
    try:
        for seed in range(episodes):
            async with pool.borrow("trial") as env:
                made.append(time.perf_counter() - begin)
                step = await _timed(seconds, env.reset(seed))
                for turn in range(max_turns):
                    step = await _timed(seconds, env.step(NASTY[(seed + turn) % len(NASTY)]))
                    if step.terminated or step.truncated:
                        break
                unended += not (step.terminated or step.truncated)
    except EnvironmentFailure as failure:
        raise EnvironmentFailure(f"seed {seed}: {failure}") from failure
    finally:
        await pool.close()
    mean = sum(seconds) / len(seconds)
    return Trial(episodes, len(seconds), made[0], mean, max(seconds), unended)


async def first_steps(
    env_id: str, settings: dict[str, object], episodes: int, limits: ProcessLimits
) -> list[EnvironmentStep]:
    """How the episodes of seeds 0, 1, … begin.

    Raises:
        EnvironmentFailure: the first failure.
    """
    pool = EnvironmentPool({"trial": (env_id, settings)}, limits, 1)
    try:
        async with pool.borrow("trial") as env:
            return [await env.reset(seed) for seed in range(episodes)]
    finally:
        await pool.close()


async def _timed(seconds: list[float], call: Awaitable[EnvironmentStep]) -> EnvironmentStep:
    begin = time.perf_counter()
    step = await call
    seconds.append(time.perf_counter() - begin)
    return step
