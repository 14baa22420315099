"""Loss terms of SFT and PPO in plain torch: one term for each token, turn or value.

Loss-invariance: the caller sums the terms and divides by the count of the global minibatch, so
that the loss does not depend on ranks, microbatches or packing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

Tensor = torch.Tensor


class PolicyTerms(NamedTuple):
    """loss: [N] at token level, [turns] at turn level; clipped: bool, which terms were clipped."""

    loss: Tensor
    clipped: Tensor


def policy_terms(
    logprobs: Tensor,
    proximal: Tensor,
    behavior: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip: float,
    cap: float,
    turns: Tensor | None = None,
    correction: str = "truncated",
    answers: Tensor | None = None,
) -> PolicyTerms:
    """Clipped surrogate of decoupled PPO (Schulman et al. 2017, eq. 7; Hilton et al. 2021).

    -c(proximal / behaviour) * min(ratio * A, clip(ratio, 1 ± clip) * A), the ratio
    current / proximal, the first factor without gradient.

    Args:
        logprobs: float32 [N], current, with gradient.
        proximal: float32 [N], of the policy when the update began.
        behavior: float32 [N], of the policy that sampled.
        advantages: float32 [N].
        weights: float32 [N]: factors on the tokens' terms; at turn level on their log-ratios.
        clip: epsilon of the ratio.
        cap: bound of proximal / behaviour.
        correction: c. truncated: min(w, cap) (Ionides 2008); masked: w where 1 / cap ≤ w ≤ cap,
            else 0; sequence: the truncated w of the whole answer, for each of its tokens; none:
            1, and the ratio is current / behaviour, as in PPO without the decoupling.
        answers: int64 [N], the turn of each token; needed by correction=sequence.
        turns: int64 [N], the turn of each token; when given, the ratio is of whole answers and
            a turn's advantage is the mean of its tokens'.
    """
    proximal = behavior if correction == "none" else proximal
    log_ratio, log_correction = logprobs - proximal, proximal - behavior
    if correction == "sequence" and turns is None:  # at turn level it is of whole answers anyway
        assert answers is not None
        log_correction = per_turn(log_correction, answers)[answers]
    if turns is not None:
        log_ratio = per_turn(weights * log_ratio, turns)
        log_correction = per_turn(weights * log_correction, turns)
        tokens = per_turn(torch.ones_like(advantages), turns)
        advantages = per_turn(advantages, turns) / tokens
        weights = torch.ones_like(advantages)
    ratio = log_ratio.exp()
    bounded = ratio.clamp(1 - clip, 1 + clip)
    surrogate = torch.minimum(ratio * advantages, bounded * advantages)
    factor = correction_factor(log_correction.detach(), cap, correction)
    clipped = (bounded * advantages < ratio * advantages).detach()
    return PolicyTerms(-weights * factor * surrogate, clipped)


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


def k3(policy: Tensor, other: Tensor) -> Tensor:
    """KL(policy ‖ other) at tokens sampled by `policy`: r - 1 - log r, r = other / policy.

    Estimator k3 of Schulman 2020 ("Approximating KL divergence"), unbiased and never negative;
    both arguments are log-probabilities [N].
    """
    log_ratio = other - policy
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
