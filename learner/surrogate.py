"""Surrogates of the policy's objective: a term for each token or answer; `ppo.surrogate` names one.

Input: log-ratios current / proximal, with gradient, and advantages. Output: what is maximised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from configs.schema import PPOConfig

Tensor = torch.Tensor
# Above it exp is a constant: in float32 it ends at 88, where even a clipped term's gradient is NaN.
LARGEST_LOG_RATIO = 20.0
SAPO_TEMPERATURES = (1.0, 1.05)  # of advantages above 0, and of the others: the paper's


class Surrogate(NamedTuple):
    """value: [N], with gradient; clipped: bool [N], terms whose gradient was cut off or bounded."""

    value: Tensor
    clipped: Tensor


def surrogate(ppo: PPOConfig, log_ratio: Tensor, advantages: Tensor) -> Surrogate:
    """The surrogate that `ppo.surrogate` names, of log-ratios [N] and advantages [N]."""
    return SURROGATES[ppo.surrogate](ppo, log_ratio, advantages)


def bounds(ppo: PPOConfig) -> tuple[float, float]:
    """Between which a ratio is not clipped; clip_high parts them (Yu et al. 2025, DAPO, eq. 8)."""
    return 1 - ppo.clip, 1 + (ppo.clip if ppo.clip_high is None else ppo.clip_high)


def bounded_exp(log_ratio: Tensor) -> Tensor:
    """The ratio; where it is above e^20, that, and without gradient."""
    return log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()


def clip(ppo: PPOConfig, log_ratio: Tensor, advantages: Tensor) -> Surrogate:
    """PPO with its clip (Schulman et al. 2017, eq. 7); with dual_clip, the value is at least c A.

    The dual clip bounds what a bad answer of a large ratio may cost (Ye et al. 2020, eq. 2).
    """
    ratio = bounded_exp(log_ratio)
    plain, bounded = ratio * advantages, ratio.clamp(*bounds(ppo)) * advantages
    value = torch.minimum(plain, bounded)
    clipped = (bounded < plain) | (log_ratio > LARGEST_LOG_RATIO)
    if ppo.dual_clip:
        floor = torch.where(advantages < 0, ppo.dual_clip * advantages, -torch.inf)
        clipped = clipped | (value < floor)
        value = torch.maximum(value, floor)
    return Surrogate(value, clipped.detach())


def cispo(ppo: PPOConfig, log_ratio: Tensor, advantages: Tensor) -> Surrogate:
    """sg(clip(r)) A log π (MiniMax 2025, arXiv 2506.13585, eq. 4): clipped tokens still learn.

    log π is counted from the proximal policy's, which changes no gradient.
    """
    ratio = log_ratio.detach().exp()
    weight = ratio.clamp(*bounds(ppo))
    return Surrogate(weight * advantages * log_ratio, weight != ratio)


def sapo(ppo: PPOConfig, log_ratio: Tensor, advantages: Tensor) -> Surrogate:
    """4 / τ σ(τ (r - 1)) A (Gao et al. 2025, arXiv 2511.20347): a soft gate in place of a clip."""
    positive, other = SAPO_TEMPERATURES
    temperature = torch.full_like(advantages, other).masked_fill(advantages > 0, positive)
    gate = torch.sigmoid(temperature * (bounded_exp(log_ratio) - 1)) * 4 / temperature
    return Surrogate(gate * advantages, torch.zeros_like(advantages, dtype=torch.bool))


SURROGATES: Mapping[str, Callable[[PPOConfig, Tensor, Tensor], Surrogate]] = {
    "clip": clip,
    "cispo": cispo,
    "sapo": sapo,
}
