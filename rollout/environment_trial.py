"""An environment tried as a run plays it: in a process of its own, each call with its deadline.

Input: its id and settings. Output: how long its calls take, how its episodes begin, what it offers,
what of the contract it breaks; or the first failure.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from configs.schema import RunConfig
from envs.base import Baseline, EnvironmentFailure, Observation
from envs.baselines import Floor
from envs.contract import NASTY
from rollout.environment_inspection import Inspection
from rollout.environment_process import unpack_inspection
from rollout.environments import (
    EnvironmentPool,
    EnvironmentStep,
    PlayedEnvironment,
    ProcessLimits,
)


@dataclass(frozen=True)
class Trial:
    """What a few episodes took.

    calls, mean_s, slowest_s: of reset and step. make_s: until the environment was made.
    unended: episodes that went on after the most turns.
    """

    episodes: int
    calls: int
    make_s: float
    mean_s: float
    slowest_s: float
    unended: int


@dataclass(frozen=True)
class TriedEnvironment:
    """An environment in its process. Each method raises EnvironmentFailure.

    make_s: until it was made.
    """

    env_id: str
    settings: dict[str, object]
    env: PlayedEnvironment
    make_s: float

    async def play(self, episodes: int, max_turns: int) -> Trial:
        """Play the episodes of seeds 0, 1, … with answers of no use; a failure names its seed."""
        seconds: list[float] = []
        unended, seed = 0, 0
        try:
            for seed in range(episodes):
                step = await _timed(seconds, self.env.reset(seed))
                for turn in range(max_turns):
                    answer = NASTY[(seed + turn) % len(NASTY)]
                    step = await _timed(seconds, self.env.step(answer))
                    if step.terminated or step.truncated:
                        break
                unended += not (step.terminated or step.truncated)
        except EnvironmentFailure as failure:
            raise EnvironmentFailure(f"seed {seed}: {failure}") from failure
        mean = sum(seconds) / len(seconds)
        return Trial(episodes, len(seconds), self.make_s, mean, max(seconds), unended)

    async def first_steps(self, episodes: int) -> list[EnvironmentStep]:
        """How the episodes of seeds 0, 1, … begin."""
        return [await self.env.reset(seed) for seed in range(episodes)]

    async def memory(self) -> int:
        """Bytes that its process takes now, besides what it shares with others."""
        reply, _ = await self._call("memory")
        return int(str(reply["bytes"]))

    async def inspect(
        self, corpus: bool = False, demonstrations: int = 0, seed: int = 0
    ) -> Inspection:
        """What it offers; see `environment_inspection.inspect`."""
        reply = await self._call("inspect", corpus=corpus, demonstrations=demonstrations, seed=seed)
        return unpack_inspection(*reply)

    async def broken_clause(
        self, episodes: int, folders: tuple[Path, ...] = (), processes: bool = True
    ) -> str:
        """What of the contract it breaks, "" if it holds; see `envs.contract.check`."""
        places = [str(folder.resolve()) for folder in folders]
        reply, _ = await self._call(
            "contract", **self._maker(), episodes=episodes, folders=places, processes=processes
        )
        return str(reply["broken"])

    async def floors(
        self, episodes: int, seed: int = 0, trained: Sequence[Mapping[str, object]] = ()
    ) -> list[Floor]:
        """What its baselines score; none where it has none."""
        reply, _ = await self._call(
            "floors", **self._maker(), episodes=episodes, seed=seed, trained=trained
        )
        rows = cast("list[dict[str, Any]]", reply["floors"])  # of `environment_process`
        return [
            Floor(Baseline(row.pop("name"), row.pop("description"), _answer_there), **row)
            for row in rows
        ]

    def _maker(self) -> dict[str, object]:
        return {"env_id": self.env_id, "settings": self.settings}

    async def _call(self, name: str, **arguments: object) -> tuple[dict[str, object], bytes]:
        return await self.env.process.call(name, self.env.slot, **arguments)


def _answer_there(observation: Observation) -> str:
    raise AssertionError("a baseline answers in the process of its environment")


def trial_limits(cfg: RunConfig) -> ProcessLimits:
    """Those that the processes of a run's environments have."""
    cluster = cfg.cluster
    return ProcessLimits(1, cluster.env_deadline_s, cluster.start_deadline_s, cfg.env.memory_gib)


@asynccontextmanager
async def tried(
    env_id: str, settings: dict[str, object], limits: ProcessLimits
) -> AsyncIterator[TriedEnvironment]:
    """An environment in a process, which ends with the block, and with it all that it started.

    Raises:
        EnvironmentFailure: it cannot be made.
    """
    pool = EnvironmentPool({"trial": (env_id, settings)}, limits, 1)
    begin = time.perf_counter()
    try:
        async with pool.borrow("trial") as env:
            yield TriedEnvironment(env_id, settings, env, time.perf_counter() - begin)
    finally:
        await pool.close()


async def _timed(seconds: list[float], call: Awaitable[EnvironmentStep]) -> EnvironmentStep:
    begin = time.perf_counter()
    step = await call
    seconds.append(time.perf_counter() - begin)
    return step
