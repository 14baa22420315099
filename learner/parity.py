"""Weights-are-proven: engine and learner agree on log-probabilities of what the engine sampled.

Input: trajectories and the policy version that the learner holds. Output: how far behaviour and
proximal log-probabilities differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from configs.schema import PPOConfig, RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.loss import correction_factor, k3, of_answers
from learner.training_trajectory import TrainingTrajectory, prepare, score
from rollout.trajectory import Trajectory

LARGEST_WEIGHT = 20.0  # of a token in correction_overlap: none of them decides alone


def parity(
    engine: TrainingEngine, trajectories: Sequence[Trajectory], cfg: RunConfig, version: int
) -> dict[str, float]:
    """Score this rank's trajectories and compare; a collective call.

    Returns:
        As `parity_metrics`.
    """
    prepared = prepare(trajectories, "turn")
    score(engine, prepared, cfg.rollout.temperature)
    return parity_metrics(prepared, version)


def correction_metrics(
    trajectories: Sequence[TrainingTrajectory], ppo: PPOConfig
) -> dict[str, float]:
    """How far the policies that sampled a batch are from the learner's, over all its tokens.

    Returns:
        With c the factor of a token by `ppo.correction` (`loss.correction_factor`), and w its
        proximal / behaviour: correction_ess = (Σc)² / (n Σc²), the effective sample size as a share
        of the n tokens (Kong 1992), 1 where all c are equal; correction_overlap, the same of w, at
        most LARGEST_WEIGHT, for c hides how far the policies have parted; correction_mean, the mean
        of w; correction_kl: KL(behaviour ‖ proximal), the mean of k3. Over all ranks; a collective
        call.
    """
    behavior, proximal = _logprobs(trajectories)
    log_w = log_ratio = proximal - behavior
    if trajectories and (ppo.correction == "sequence" or ppo.ratio_level != "token"):
        lengths = np.concatenate([t.turn_lengths for t in trajectories])
        turns = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        log_ratio = of_answers(log_w, turns, ppo)[turns]
    c = correction_factor(log_ratio, ppo.correction_cap, ppo.correction)
    w = log_w.exp()
    near = w.clamp(max=LARGEST_WEIGHT)
    terms = (torch.ones_like(c), c, c.square(), near, near.square(), w, k3(behavior, proximal))
    sums = distributed.all_sum([float(term.sum()) for term in terms])
    tokens, c_sum, c_squares, near_sum, near_squares, w_sum, k3_sum = sums.tolist()
    tokens = max(tokens, 1)
    return {
        "correction_ess": c_sum**2 / max(tokens * c_squares, 1e-300),
        "correction_overlap": near_sum**2 / max(tokens * near_squares, 1e-300),
        "correction_mean": w_sum / tokens,
        "correction_kl": k3_sum / tokens,
    }


def parity_metrics(trajectories: Sequence[TrainingTrajectory], version: int) -> dict[str, float]:
    """Behaviour against proximal log-probabilities of the tokens that `version` sampled.

    Returns:
        parity_tokens; parity_mean_abs; parity_kl: KL(behaviour ‖ proximal), the mean of k3. Over
        all ranks; a collective call.
    """
    behavior, proximal = _logprobs(trajectories)
    own = [t.policy_versions == version for t in trajectories]
    current = torch.from_numpy(np.concatenate([np.zeros(0, np.bool_), *own]))
    gaps, divergence = (proximal - behavior).abs(), k3(behavior, proximal)
    sums = [float(term[current].sum()) for term in (torch.ones_like(gaps), gaps, divergence)]
    tokens, gap_sum, k3_sum = distributed.all_sum(sums).tolist()
    return {
        "parity_tokens": tokens,
        "parity_mean_abs": gap_sum / max(tokens, 1),
        "parity_kl": k3_sum / max(tokens, 1),
    }


def _logprobs(trajectories: Sequence[TrainingTrajectory]) -> tuple[torch.Tensor, torch.Tensor]:
    """Behaviour and proximal log-probabilities of all action tokens.

    In float64: gaps are small, and k3 subtracts numbers near 1.
    """
    behavior = np.concatenate([np.zeros(0), *(t.behavior_logprobs for t in trajectories)])
    proximal = np.concatenate([np.zeros(0), *(t.proximal_logprobs for t in trajectories)])
    return torch.from_numpy(behavior), torch.from_numpy(proximal)
