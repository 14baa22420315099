"""One pass over an update's tokens instead of two, where an update is a single optimizer step.

The policy before that step is the proximal one: what the step's own pass computes are its
log-probabilities and entropies. verl and TRL leave out the scoring pass in the same case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from configs.schema import PPOConfig
from learner.batch import MicroBatch
from learner.engine import LossFn, Means
from learner.model import Scores
from learner.training_trajectory import TrainingTrajectory, split_tokens


def scored_by_its_step(ppo: PPOConfig) -> bool:
    """Whether an update is one step, and nothing needs the policies' scores before it."""
    one_step = ppo.epochs == 1 and ppo.minibatch == ppo.episodes
    return one_step and ppo.estimator != "gae" and ppo.baseline == "mean" and ppo.kl_coef == 0


def scoring_passes(ppo: PPOConfig) -> int:
    """How often an update reads its tokens before it learns: by the policy and the reference."""
    return 0 if scored_by_its_step(ppo) else 1 + (ppo.kl_coef > 0)


def leave_unscored(trajectories: Sequence[TrainingTrajectory]) -> None:
    """Give them what is read before the step has scored them: there is no critic."""
    for t in trajectories:
        t.proximal_logprobs = t.behavior_logprobs
        t.score_norms = np.zeros(t.action_tokens, np.float32)  # as without an optimal baseline
        values = sum(len(sequence.value_positions) for sequence in t.sequences)
        t.values = np.zeros(values, np.float32)


class ScoringStep:
    """A step's loss function, by its own log-probabilities as the proximal ones; keeps them."""

    def __init__(self, loss_fn: LossFn, ppo: PPOConfig) -> None:
        self._loss_fn, self._learns_entropy = loss_fn, ppo.entropy_coef > 0
        self._logprobs: list[torch.Tensor] = []
        self._entropies: list[torch.Tensor] = []

    def __call__(self, scores: Scores, microbatch: MicroBatch) -> tuple[torch.Tensor, Means]:
        """As `learner.engine.LossFn`."""
        proximal, entropy = scores.logprobs.detach(), scores.entropy.detach()
        self._logprobs.append(proximal)
        self._entropies.append(entropy)
        if not self._learns_entropy:
            scores = scores._replace(entropy=entropy)
        columns = microbatch.token_columns | {"proximal": proximal}
        return self._loss_fn(scores, replace(microbatch, token_columns=columns))

    def keep(
        self, microbatches: list[MicroBatch], trajectories: Sequence[TrainingTrajectory]
    ) -> None:
        """Set proximal log-probabilities and entropies of the step's trajectories, in its order."""
        logprobs = iter(split_tokens(microbatches, self._logprobs))
        entropies = iter(split_tokens(microbatches, self._entropies))
        for t in trajectories:
            parts = [s for s in t.trajectory.segments if s.action_mask.any()]
            t.proximal_logprobs = np.concatenate([next(logprobs) for _ in parts])
            t.entropies = np.concatenate([next(entropies) for _ in parts])
