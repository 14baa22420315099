"""Surrogates against scalar arithmetic written from the papers' formulas, and their gradients."""

from __future__ import annotations

import math

import pytest
import torch

from configs.schema import PPOConfig
from learner.surrogate import surrogate

RATIOS = [0.2, 0.85, 1.0, 1.15, 1.25, 4.0]
ADVANTAGES = [2.0, -1.0]


def by_hand(ppo, r, a):
    """Value, gradient by the log-ratio, and whether it is clipped."""
    low, high = 1 - ppo.clip, 1 + (ppo.clip if ppo.clip_high is None else ppo.clip_high)
    bounded = min(max(r, low), high)
    if ppo.surrogate == "cispo":
        return bounded * a * math.log(r), bounded * a, bounded != r
    if ppo.surrogate == "sapo":
        tau = 1.0 if a > 0 else 1.05
        gate = 1 / (1 + math.exp(-tau * (r - 1)))
        return 4 / tau * gate * a, 4 * gate * (1 - gate) * r * a, False
    value = min(r * a, bounded * a)
    clipped = bounded * a < r * a
    if ppo.dual_clip and a < 0 and value < ppo.dual_clip * a:
        return ppo.dual_clip * a, 0.0, True
    return value, 0.0 if clipped else r * a, clipped


@pytest.mark.parametrize(
    "ppo",
    [
        PPOConfig(clip=0.2),
        PPOConfig(clip=0.1, clip_high=0.2),
        PPOConfig(clip=0.2, clip_high=0.0),
        PPOConfig(clip=0.2, dual_clip=3.0),
        PPOConfig(surrogate="cispo", clip=0.2, clip_high=0.4),
        PPOConfig(surrogate="sapo"),
    ],
)
def test_value_gradient_and_clipping(ppo):
    for ratio in RATIOS:
        for a in ADVANTAGES:
            log_ratio = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
            value, clipped = surrogate(ppo, log_ratio, torch.tensor([a], dtype=torch.float64))
            value.sum().backward()
            expected, gradient, cut = by_hand(ppo, ratio, a)
            assert float(value.detach()) == pytest.approx(expected, abs=1e-12), (ratio, a)
            assert float(log_ratio.grad) == pytest.approx(gradient, abs=1e-12), (ratio, a)
            assert bool(clipped) == cut, (ratio, a)
            assert not clipped.requires_grad


@pytest.mark.parametrize("kind", ["clip", "cispo", "sapo"])
def test_on_its_own_tokens_each_is_the_policy_gradient(kind):
    log_ratio = torch.zeros(2, requires_grad=True)
    value, clipped = surrogate(PPOConfig(surrogate=kind), log_ratio, torch.tensor([2.0, -3.0]))
    value.sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([2.0, -3.0])
    assert not clipped.any()


@pytest.mark.parametrize("a", [2.0, -1.0])
@pytest.mark.parametrize(
    "ppo",
    [
        PPOConfig(),
        PPOConfig(dual_clip=3.0),
        PPOConfig(surrogate="cispo"),
        PPOConfig(surrogate="sapo"),
    ],
)
def test_a_ratio_beyond_all_numbers_leaves_value_and_gradient_finite(ppo, a):
    """`ratio_level=turn` adds up an answer's log-ratios; exp ends at 88 in float32."""
    log_ratio = torch.tensor([19.0, 21.0, 89.0, 1000.0, -1000.0], requires_grad=True)
    value, clipped = surrogate(ppo, log_ratio, torch.full((5,), a))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(log_ratio.grad).all()
    largest = a * torch.tensor([19.0, 20.0, 20.0, 20.0]).exp()  # where nothing bounds it
    if ppo == PPOConfig() and a < 0:
        torch.testing.assert_close(value[:4], largest)
        torch.testing.assert_close(log_ratio.grad[:4], largest * torch.tensor([1.0, 0, 0, 0]))
        assert clipped.tolist() == [False, True, True, True, True]
    elif ppo.surrogate != "cispo":  # whose clipped tokens still learn
        assert log_ratio.grad.tolist() == [0.0] * 5
