"""Loss terms of SFT and PPO in plain torch: one term for each token, turn or value.

Loss-invariance: the caller sums the terms and divides by the count of the global minibatch, so
that the loss does not depend on ranks, microbatches or packing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from configs.schema import PPOConfig
from learner.surrogate import LARGEST_LOG_RATIO, surrogate

Tensor = torch.Tensor


@dataclass(frozen=True)
class Counts:
    """Action tokens, turns and values of a trajectory or of a minibatch: denominators of means."""

    tokens: int
    turns: int
    values: int


class PolicyTerms(NamedTuple):
    """loss: [N] at token level, [turns] of whole answers; clipped: bool, which were clipped."""

    loss: Tensor
    clipped: Tensor


def policy_terms(
    logprobs: Tensor,
    proximal: Tensor,
    behavior: Tensor,
    advantages: Tensor,
    weights: Tensor,
    turns: Tensor,
    ppo: PPOConfig,
) -> PolicyTerms:
    """Decoupled PPO's terms (Hilton et al. 2021): -c(proximal / behaviour) * surrogate.

    The surrogate is of the ratio current / proximal (`learner.surrogate`); c has no gradient.

    Args:
        logprobs: float32 [N], current, with gradient.
        proximal: float32 [N], of the policy when the update began.
        behavior: float32 [N], of the policy that sampled.
        advantages: float32 [N].
        weights: float32 [N]: factors on the tokens' terms; of whole answers on their log-ratios.
        turns: int64 [N], the turn of each token.
        ppo: surrogate and its bounds. ratio_level: token, a term each; turn, a term for each
            answer, of its ratio; turn_mean, of its ratio's geometric mean over the tokens (Zheng
            et al. 2025, GSPO, eq. 7). correction: c. truncated: min(w, cap) (Ionides 2008);
            masked: w where 1 / cap ≤ w ≤ cap, else 0; sequence: the truncated w of the whole
            answer, for each of its tokens; none: 1, and the ratio is current / behaviour, as in
            PPO without the decoupling.
    """
    proximal = behavior if ppo.correction == "none" else proximal
    log_ratio, log_correction = logprobs - proximal, proximal - behavior
    if ppo.ratio_level == "token":
        if ppo.correction == "sequence":
            log_correction = per_turn(log_correction, turns)[turns]
    else:
        log_ratio = of_answers(weights * log_ratio, turns, ppo)
        log_correction = of_answers(weights * log_correction, turns, ppo)
        advantages = per_turn(advantages, turns) / per_turn(torch.ones_like(advantages), turns)
        weights = torch.ones_like(advantages)
    value, clipped = surrogate(ppo, log_ratio, advantages)
    factor = correction_factor(log_correction.detach(), ppo.correction_cap, ppo.correction)
    return PolicyTerms(-weights * factor * value, clipped)


def of_answers(log_ratios: Tensor, turns: Tensor, ppo: PPOConfig) -> Tensor:
    """Log-ratios [turns] of whole answers, from their tokens' [N]; see `policy_terms`."""
    sums = per_turn(log_ratios, turns)
    if ppo.ratio_level == "turn_mean":
        return sums / per_turn(torch.ones_like(log_ratios), turns)
    return sums


def token_shares(turns: Tensor, ppo: PPOConfig, counts: Counts, answer_tokens: int) -> Tensor:
    """What the term of each token [N] counts in the loss of a global minibatch.

    `ppo.aggregation`. token: each the same, over all answers (DAPO); turn: the mean over the
    tokens of an answer, then over answers (GRPO); constant: their sum by the longest answer that
    is allowed, then the mean over answers (Liu et al. 2025, Dr. GRPO).
    """
    ones = torch.ones_like(turns, dtype=torch.float32)
    if ppo.aggregation == "turn":
        return ones / per_turn(ones, turns)[turns] / counts.turns
    if ppo.aggregation == "constant":
        return ones / answer_tokens / counts.turns
    return ones / counts.tokens


def correction_factor(log_correction: Tensor, cap: float, correction: str) -> Tensor:
    """Factor [N] of the surrogate for log(proximal / behaviour) [N]; see `policy_terms`."""
    factor = log_correction.exp()
    if correction == "masked":
        return torch.where((factor >= 1 / cap) & (factor <= cap), factor, 0.0)
    return torch.ones_like(factor) if correction == "none" else factor.clamp(max=cap)


def per_turn(values: Tensor, turns: Tensor) -> Tensor:
    """Sums [turns] of values [N] by the turn int64 [N] of each, in order and without gaps."""
    size = int(turns[-1]) + 1 if len(turns) else 0
    return values.new_zeros(size).index_add(0, turns, values)


def value_terms(values: Tensor, old: Tensor, targets: Tensor, clip: float) -> Tensor:
    """Squared error of the values [M] (Schulman et al. 2017, eq. 9: no factor of a half).

    With clip > 0 the worse of V and of V kept within V_old ± clip (OpenAI baselines' ppo2).
    """
    terms = (values - targets).square()
    if clip > 0:
        near = old + (values - old).clamp(-clip, clip)
        terms = torch.maximum(terms, (near - targets).square())
    return terms


def k2(policy: Tensor, other: Tensor) -> Tensor:
    """(log r)² / 2 [N], arguments as of `k3`: its gradient is that of KL(policy ‖ other).

    On the policy's own tokens, in expectation (Schulman 2020; Tang and Munos 2025).
    """
    return (other - policy).square() / 2


def k3(policy: Tensor, other: Tensor) -> Tensor:
    """KL(policy ‖ other) at tokens sampled by `policy`: r - 1 - log r, r = other / policy.

    Estimator k3 of Schulman 2020 ("Approximating KL divergence"), unbiased and never negative, with
    r at most e^20; both arguments are log-probabilities [N].
    """
    log_ratio = (other - policy).clamp(max=LARGEST_LOG_RATIO)
    return log_ratio.expm1() - log_ratio  # exp(x) - 1 loses all digits near 0


def cross_entropy_terms(logprobs: Tensor) -> Tensor:
    """-log p [N] of the demonstrated tokens."""
    return -logprobs


def dft_terms(logprobs: Tensor) -> Tensor:
    """-sg(p) log p [N], dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629)."""
    return -logprobs.detach().exp() * logprobs


def kl_terms(distribution: Tensor, reference: Tensor) -> Tensor:
    """KL(current ‖ reference) [N], exact, from log-probabilities [N, V] of both."""
    return (distribution.exp() * (distribution - reference)).sum(-1)
