"""Parity: do engine and learner agree about the log-probabilities of what the engine sampled?

Trajectories and the policy version that the learner now holds go in, the differences come
out (law 6). It does not know how the weights travelled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.schema import RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.model import ForwardOptions
from learner.training_trajectory import Episode, episode, scored
from rollout.trajectory import Trajectory


def parity(
    engine: TrainingEngine, trajectories: Sequence[Trajectory], cfg: RunConfig, version: int
) -> dict[str, float]:
    """Score this rank's trajectories and compare; a collective call.

    Returns:
        As `differences`.
    """
    built = [episode(t, "turn") for t in trajectories if t.end != "failed"]
    episodes = [e for e in built if e is not None]
    sequences = [s for e in episodes for s in e.sequences]
    packed = engine.microbatches(sequences)
    how = ForwardOptions(temperature=cfg.rollout.temperature)
    logprobs, _ = scored(len(sequences), packed, engine.score(packed, how))
    start = 0
    for e in episodes:
        e.proximal = np.concatenate(logprobs[start : start + len(e.sequences)])
        start += len(e.sequences)
    return differences(episodes, version)


def differences(episodes: Sequence[Episode], version: int) -> dict[str, float]:
    """Behaviour against proximal log-probabilities of the tokens that `version` sampled.

    Returns:
        parity_tokens; parity_mean_abs; parity_kl: KL(behaviour, proximal), estimated without
        bias and with low variance as the mean of exp(d) - 1 - d, d = proximal - behaviour
        (k3; Schulman, "Approximating KL divergence", 2020). Over all ranks; a collective call.
    """
    sums = np.zeros(3)
    for e in episodes:
        fresh = e.versions == version
        gap = e.proximal[fresh].astype(np.float64) - e.behavior[fresh]
        sums += [fresh.sum(), np.abs(gap).sum(), (np.expm1(gap) - gap).sum()]
    tokens, absolute, divergence = distributed.all_sum(sums).tolist()
    return {
        "parity_tokens": tokens,
        "parity_mean_abs": absolute / max(tokens, 1),
        "parity_kl": divergence / max(tokens, 1),
    }
