"""The parts of a run as they were measured on one machine, and the costs of a run made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.simulation.costs import (
    BufferCosts,
    Costs,
    EngineCosts,
    LearnerCosts,
    PassCosts,
    SyncCosts,
    TurnTokens,
)
from configs.schema import RunConfig
from rollout.worker import block_age_s


@dataclass(frozen=True)
class HostCosts:
    """What every machine does on its processors, seconds.

    trajectory_s: of each trajectory of a batch, on every rank.
    own_trajectory_s, fetch_s: of each of a rank's own, within the update and before it.
    block_s, buffered_s: of a block in the trajectory buffer, and of each trajectory in it.
    call_s: until a call of an actor is answered.
    put_byte_s: of a byte that is written to the object store.
    """

    trajectory_s: float
    own_trajectory_s: float
    fetch_s: float
    block_s: float
    buffered_s: float
    call_s: float
    put_byte_s: float


@dataclass(frozen=True)
class Parts:
    """Of a machine whose processes share its cores.

    load_s: for which an engine is paused while it loads the measured model.
    """

    engine: EngineCosts
    step: PassCosts
    score: PassCosts
    optimizer_s: float
    load_s: float
    weights_bytes: int
    host: HostCosts

    @staticmethod
    def of(rows: Sequence[Mapping[str, Any]]) -> Parts:
        """Of the rows named engine, learner and buffer."""
        engine, learner, buffer = (_named(rows, name) for name in ("engine", "learner", "buffer"))
        host = {
            name: float(row[name])
            for row in (engine, learner, buffer)
            for name in HostCosts.__dataclass_fields__
            if name in row
        }
        return Parts(
            engine=EngineCosts(**engine["engine"]),
            step=PassCosts(**learner["step"]),
            score=PassCosts(**learner["score"]),
            optimizer_s=learner["optimizer_s"],
            load_s=engine["load_s"],
            weights_bytes=engine["weights_bytes"],
            host=HostCosts(**host),
        )

    def costs(self, cfg: RunConfig, prompt: float, answer: float, cores: float) -> Costs:
        """Of a run on that machine.

        Args:
            cfg: the run.
            prompt: mean tokens of an episode's prompt.
            answer: mean tokens of its answer.
            cores: that nobody else used.
        """
        host, ahead = self.host, cfg.ppo.max_staleness > 0
        learner = LearnerCosts(
            step=self.step,
            score=self.score,
            optimizer_s=self.optimizer_s,
            trajectory_s=host.trajectory_s,
            own_trajectory_s=host.own_trajectory_s + (0.0 if ahead else host.fetch_s),
            fetch_s=host.fetch_s if ahead else 0.0,  # packed in the update, else ahead of it
            threads=cfg.learner.ranks * cfg.learner.threads,
        )
        return Costs(
            workload=lambda seed: [TurnTokens(_spread(prompt, seed), _spread(answer, seed))],
            engine=self.engine,
            learner=learner,
            sync=SyncCosts(sent_s=self.weights_bytes * host.put_byte_s, load_s=self.load_s),
            buffer=BufferCosts(
                host.block_s, host.buffered_s, block_age_s(cfg.rollout.workers), host.call_s
            ),
            engines_of_a_node=cfg.rollout.workers,
            cores=cores,
        )


def _named(rows: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    (row,) = (row for row in rows if row["name"] == name)
    return row


def _spread(mean: float, seed: int) -> int:
    """Whole numbers of that mean, over many seeds."""
    low = math.floor(mean)
    return low + (seed * 0.618033988749895 % 1 < mean - low)


def non_negative_fit(columns: Sequence[Sequence[float]], measured: Sequence[float]) -> list[float]:
    """Coefficients, none below 0, with which the columns come nearest to what was measured.

    Relative errors count alike, whether something took long or not. A coefficient that would be
    negative is left out.
    """
    target = np.asarray(measured)
    matrix = np.asarray(columns, float).T / target[:, None]
    left = list(range(matrix.shape[1]))
    while left:
        solution, *_ = np.linalg.lstsq(matrix[:, left], np.ones(len(target)), rcond=None)
        if solution.min() >= 0:
            break
        left.pop(int(solution.argmin()))
    found = dict(zip(left, solution.tolist(), strict=True)) if left else {}
    return [found.get(column, 0.0) for column in range(matrix.shape[1])]
