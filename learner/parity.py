"""Weights-are-proven: engine and learner agree on log-probabilities of what the engine sampled.

Input: trajectories and the policy version that the learner holds. Output: how far behaviour and
proximal log-probabilities differ, over all engines and for the worst: of many, one alone is lost
in their mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from configs.schema import PPOConfig, RunConfig
from learner import distributed
from learner.engine import TrainingEngine
from learner.loss import correction_factor, k3, of_answers
from learner.slack import LEAST_TOKENS, slack
from learner.training_trajectory import TrainingTrajectory, prepare, score
from rollout.trajectory import Trajectory

LARGEST_WEIGHT = 20.0  # of a token in correction_overlap: none of them decides alone
Floats = NDArray[np.float64]


def parity(
    engine: TrainingEngine, trajectories: Sequence[Trajectory], cfg: RunConfig, version: int
) -> dict[str, float]:
    """Score this rank's trajectories and compare; a collective call.

    Returns:
        As `parity_metrics`.
    """
    prepared = prepare(trajectories, "turn")
    score(engine, prepared, cfg.rollout.temperature)
    return parity_metrics(prepared, version, cfg.rollout.workers)


def correction_metrics(
    trajectories: Sequence[TrainingTrajectory], ppo: PPOConfig, engines: int
) -> dict[str, float]:
    """How far the policies that sampled a batch are from the learner's, over all its tokens.

    engines: how many there are.

    Returns:
        With c the factor of a token by `ppo.correction` (`loss.correction_factor`), and w its
        proximal / behaviour: correction_ess = (Σc)² / (n Σc²), the effective sample size as a share
        of the n tokens (Kong 1992), 1 where all c are equal; correction_overlap, the same of w, at
        most LARGEST_WEIGHT, for c hides how far the policies have parted; correction_mean, the mean
        of w; correction_kl: KL(behaviour ‖ proximal), the mean of k3; correction_worst_overlap and
        _engine, _tokens: as `_worst`. Over all ranks; a collective call.
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
    ones = torch.ones_like(c)
    terms = [ones, near, near.square(), c, c.square(), w, k3(behavior, proximal)]
    sums = _by_engine(trajectories, terms, engines)
    overlaps = sums[1] ** 2 / np.maximum(sums[0] * sums[2], 1e-300)
    tokens, near_sum, near_squares, c_sum, c_squares, w_sum, k3_sum = sums.sum(1).tolist()
    tokens = max(tokens, 1)
    return {
        "correction_ess": c_sum**2 / max(tokens * c_squares, 1e-300),
        "correction_overlap": near_sum**2 / max(tokens * near_squares, 1e-300),
        "correction_mean": w_sum / tokens,
        "correction_kl": k3_sum / tokens,
        **_worst("correction_worst", "overlap", overlaps, sums[0], lowest=True),
    }


def parity_metrics(
    trajectories: Sequence[TrainingTrajectory], version: int, engines: int
) -> dict[str, float]:
    """Behaviour against proximal log-probabilities of the tokens that `version` sampled.

    engines: how many there are.

    Returns:
        parity_tokens; parity_mean_abs; parity_kl: KL(behaviour ‖ proximal), the mean of k3;
        parity_worst_mean_abs and _engine, _tokens: as `_worst`; parity_most_engine: index of the
        one whose gaps have the largest sum, however few tokens it has. NaN where there is no token.
        Over all ranks; a collective call.
    """
    behavior, proximal = _logprobs(trajectories)
    own = [t.policy_versions == version for t in trajectories]
    current = torch.from_numpy(np.concatenate([np.zeros(0, np.bool_), *own]))
    gaps, divergence = (proximal - behavior).abs(), k3(behavior, proximal)
    # Not as factors: of another version's token a gap may be infinite.
    terms = [torch.where(current, term, 0.0) for term in (torch.ones_like(gaps), gaps, divergence)]
    sums = _by_engine(trajectories, terms, engines)
    means = sums[1] / np.maximum(sums[0], 1)
    tokens, gap_sum, k3_sum = sums.sum(1).tolist()
    return {
        "parity_tokens": tokens,
        "parity_mean_abs": gap_sum / tokens if tokens else math.nan,
        "parity_kl": k3_sum / tokens if tokens else math.nan,
        "parity_most_engine": float(sums[1, 1:].argmax()) if sums[0, 1:].any() else math.nan,
        **_worst("parity_worst", "mean_abs", means, sums[0]),
    }


def _by_engine(
    trajectories: Sequence[TrainingTrajectory], terms: Sequence[torch.Tensor], engines: int
) -> Floats:
    """Sums of terms of tokens over all ranks [terms, 1 + engines]; a collective call.

    The first column is of tokens whose engine is not known: episodes that were read from disk.
    """
    lengths = [len(t.behavior_logprobs) for t in trajectories]
    columns = np.repeat(np.array([t.trajectory.worker + 1 for t in trajectories], int), lengths)
    own = [np.bincount(columns, term.numpy(), 1 + engines) for term in terms]
    return distributed.all_sum(np.concatenate(own)).reshape(len(terms), 1 + engines)


def _worst(
    name: str, figure: str, figures: Floats, tokens: Floats, *, lowest: bool = False
) -> dict[str, float]:
    """The engine whose figure is worst, for as many tokens as it has.

    Returns:
        NAME_engine, its index; NAME_FIGURE; NAME_tokens. NaN where none has LEAST_TOKENS.
    """
    known = [e for e in range(1, len(tokens)) if tokens[e] >= LEAST_TOKENS]
    found = (math.nan, math.nan, math.nan)
    if known:
        may = slack(tokens[known])
        bad = -figures[known] * may if lowest else figures[known] / may
        worst = known[int(bad.argmax())]  # a NaN is the largest
        found = (worst - 1, figures[worst], tokens[worst])
    keys = (f"{name}_engine", f"{name}_{figure}", f"{name}_tokens")
    return dict(zip(keys, map(float, found), strict=True))


def _logprobs(trajectories: Sequence[TrainingTrajectory]) -> tuple[torch.Tensor, torch.Tensor]:
    """Behaviour and proximal log-probabilities of all action tokens.

    In float64: gaps are small, and k3 subtracts numbers near 1.
    """
    behavior = np.concatenate([np.zeros(0), *(t.behavior_logprobs for t in trajectories)])
    proximal = np.concatenate([np.zeros(0), *(t.proximal_logprobs for t in trajectories)])
    return torch.from_numpy(behavior), torch.from_numpy(proximal)
