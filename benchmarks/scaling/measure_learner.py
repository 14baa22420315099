"""Measures the learner's parts on this machine: passes by tokens, optimizer steps, packing.

The update is the run's own, `learner.ppo.ppo_update`; its microbatches are what the packer makes of
trajectories as long as those that an engine has played. Seconds are the processor's: others may use
the machine meanwhile.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scaling.parts import non_negative_fit
from benchmarks.simulation.costs import PassCosts
from configs.schema import RunConfig
from learner.engine import TrainingEngine
from learner.minibatches import update_minibatches
from learner.packed_update import pack_ahead
from learner.ppo import ppo_steps, ppo_update
from rollout.trajectory import Segment, Trajectory, Turn


@dataclass(frozen=True)
class LearnerParts:
    """See `benchmarks.scaling.parts.Parts` and `HostCosts`."""

    step: PassCosts
    score: PassCosts
    optimizer_s: float
    trajectory_s: float
    own_trajectory_s: float
    fetch_s: float


@dataclass
class _Passes:
    """Calls of one method of the engine: microbatches, tokens with padding, seconds of each."""

    microbatches: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The method; each call is noted."""

        def call(microbatches: list[Any], *args: Any, **kwargs: Any) -> Any:
            begin = time.process_time()
            result = method(microbatches, *args, **kwargs)
            self.seconds.append(time.process_time() - begin)
            self.microbatches.append(len(microbatches))
            self.tokens.append(sum(m.tokens for m in microbatches))
            return result

        return call

    def fastest(self) -> tuple[list[float], list[float], list[float]]:
        """Of each size of call the least disturbed one: microbatches, tokens, seconds."""
        least: dict[tuple[float, float], float] = {}
        for *size, seconds in zip(self.microbatches, self.tokens, self.seconds, strict=True):
            key = (size[0], size[1])
            least[key] = min(seconds, least.get(key, seconds))
        counts, tokens = zip(*least, strict=True)
        return list(counts), list(tokens), list(least.values())


def trajectories(lengths: Iterable[tuple[int, int]]) -> list[Trajectory]:
    """Episodes of one turn, with so many tokens of their prompts and answers."""
    rng = np.random.default_rng(0)
    made = []
    for i, (prompt, answer) in enumerate(lengths):
        length = prompt + answer
        mask = np.arange(length) >= prompt
        segment = Segment(
            rng.integers(0, 64, length).astype(np.int32),
            mask,
            np.where(mask, -4.0, 0).astype(np.float32),
            np.where(mask, 0, -1).astype(np.int32),
            (Turn(prompt, length, float(rng.normal())),),
        )
        metrics = {"success": 0.0, "first_try": 0.0}
        name = f"{i:05d}"
        made.append(Trajectory(name, "b", "train", i, i, (segment,), "terminated", metrics))
    return made


def measure(
    folder: Path, cfg: RunConfig, lengths: Sequence[tuple[int, int]], rounds: int = 3
) -> LearnerParts:
    """Updates of several sizes, in each round all of them; the fastest of each counts."""
    torch.set_num_threads(cfg.learner.threads)
    engine = TrainingEngine(
        folder, cfg, cfg.ppo.optimizer, 10**6 * ppo_steps(cfg.ppo), cfg.ppo.estimator == "gae"
    )
    step, score = _Passes(), _Passes()
    timed: Any = engine
    timed.step, timed.score = step.timed(engine.step), score.timed(engine.score)
    count = cfg.ppo.episodes
    sizes = sorted({count // 16, count // 8, count // 4, count // 2, count, cfg.ppo.minibatch})
    episodes = trajectories(islice(cycle(lengths), count))
    other: list[float] = []
    for number in range(rounds + 1):  # the first warms up
        for size in sizes:
            ppo = replace(cfg.ppo, minibatch=size, epochs=1, updates=10**6)
            for chosen in (episodes[: 2 * size], episodes):
                before = sum(step.seconds) + sum(score.seconds)
                begin = time.process_time()
                ppo_update(engine, chosen, replace(cfg, ppo=ppo), number + 100)
                whole = time.process_time() - begin
                within = sum(step.seconds) + sum(score.seconds) - before
                other.append((whole - within) / len(chosen))
        if not number:
            for warm in (step.microbatches, step.tokens, step.seconds, other):
                warm.clear()
            for warm in (score.microbatches, score.tokens, score.seconds):
                warm.clear()
    counts, tokens, seconds = step.fastest()
    optimizer, microbatch, token = non_negative_fit([[1] * len(counts), counts, tokens], seconds)
    counts, tokens, seconds = score.fastest()
    score_microbatch, score_token = non_negative_fit([counts, tokens], seconds)
    packing, batch = _host(engine, cfg, episodes)
    return LearnerParts(
        PassCosts(token, microbatch),
        PassCosts(score_token, score_microbatch),
        optimizer,
        batch,
        max(0.0, min(other) - packing - batch),
        packing,
    )


def _host(
    engine: TrainingEngine, cfg: RunConfig, episodes: list[Trajectory]
) -> tuple[float, float]:
    """Seconds of a trajectory that is packed, and of one of the batch that every rank hears of."""
    ids, packing, batch = [t.id for t in episodes], [], []
    for number in range(5):
        begin = time.process_time()
        steps = update_minibatches(ids, cfg.ppo, 0, number)
        pairs = [(name, (1, 1, 1)) for name in ids]
        pickle.dumps(pairs)  # as they go to all ranks
        dict(sorted(pairs))
        dealt = time.process_time()
        pack_ahead(engine, cfg.ppo.value_level, episodes, steps)
        packing.append((time.process_time() - dealt) / len(ids))
        batch.append((dealt - begin) / len(ids))
    return min(packing), min(batch)
