"""Loss terms against scalar arithmetic written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from configs.schema import PPOConfig
from learner import loss


def random_tokens(seed, n=30):
    rng = np.random.default_rng(seed)
    current, proximal, behavior = rng.normal(-1, 0.4, size=(3, n))
    return current, proximal, behavior, rng.normal(size=n), rng.choice([0.5, 1.0], n)


def surrogate(log_ratio, log_correction, advantage, clip, cap):
    ratio = math.exp(log_ratio)
    bounded = min(max(ratio, 1 - clip), 1 + clip)
    value = min(ratio * advantage, bounded * advantage)
    return -min(math.exp(log_correction), cap) * value


@pytest.mark.parametrize("seed", range(5))
def test_token_level(seed):
    current, proximal, behavior, advantages, weights = random_tokens(seed)
    tensors = [torch.tensor(x) for x in (current, proximal, behavior, advantages, weights)]
    turns = torch.arange(len(current))
    terms = loss.policy_terms(*tensors, turns, PPOConfig(clip=0.1, correction_cap=1.3))
    for i in range(len(current)):
        expected = weights[i] * surrogate(
            current[i] - proximal[i], proximal[i] - behavior[i], advantages[i], 0.1, 1.3
        )
        assert float(terms.loss[i]) == pytest.approx(expected)
        ratio = math.exp(current[i] - proximal[i])
        clipped = ratio > 1.1 if advantages[i] > 0 else ratio < 0.9
        assert bool(terms.clipped[i]) == clipped


@pytest.mark.parametrize("level", ["turn", "turn_mean"])
@pytest.mark.parametrize("seed", range(5))
def test_levels_of_whole_answers(seed, level):
    current, proximal, behavior, _, weights = random_tokens(seed, 12)
    turns = np.array([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 4, 4])
    advantages = np.random.default_rng(seed).normal(size=5)
    tensors = [torch.tensor(x) for x in (current, proximal, behavior, advantages[turns], weights)]
    ppo = PPOConfig(clip=0.1, ratio_level=level)
    terms = loss.policy_terms(*tensors, torch.tensor(turns), ppo)
    assert len(terms.loss) == 5
    for k in range(5):
        mine = turns == k
        size = mine.sum() if level == "turn_mean" else 1
        expected = surrogate(
            sum(weights[mine] * (current - proximal)[mine]) / size,
            sum(weights[mine] * (proximal - behavior)[mine]) / size,
            advantages[k],
            0.1,
            2.0,
        )
        assert float(terms.loss[k]) == pytest.approx(expected)


def test_gradient_is_that_of_the_policy_and_not_of_the_correction():
    logprobs = torch.tensor([-1.0, -1.0], dtype=torch.float64, requires_grad=True)
    ones = torch.ones(2, dtype=torch.float64)
    advantages = torch.tensor([2.0, -3.0]).double()
    terms = loss.policy_terms(
        logprobs, -ones, -1.2 * ones, advantages, ones, torch.tensor([0, 1]), PPOConfig()
    )
    terms.loss.sum().backward()
    correction = math.exp(0.2)  # proximal / behaviour; the ratio is 1, its gradient too
    assert logprobs.grad.tolist() == pytest.approx([-2.0 * correction, 3.0 * correction])


def test_clipped_tokens_have_no_gradient():
    logprobs = torch.tensor([-0.5, -0.5], requires_grad=True)
    ones = torch.ones(2)
    terms = loss.policy_terms(
        logprobs, -ones, -ones, torch.tensor([1.0, -1.0]), ones, torch.tensor([0, 1]), PPOConfig()
    )
    terms.loss.sum().backward()
    assert logprobs.grad[0] == 0
    assert logprobs.grad[1] > 0
    assert terms.clipped.tolist() == [True, False]


def test_value_terms():
    values, old, targets = torch.tensor([[1.0, 3.0, -1.0], [0.0, 0.0, 0.0], [2.0, 1.0, 1.0]])
    assert loss.value_terms(values, old, targets, 0.0).tolist() == [1.0, 4.0, 4.0]
    # kept within ±0.5 of 0: 0.5, 0.5, -0.5; the worse of both errors counts
    assert loss.value_terms(values, old, targets, 0.5).tolist() == [2.25, 4.0, 4.0]


def test_k3_is_unbiased_and_never_negative():
    torch.manual_seed(0)
    p, q = torch.randn(2, 20, dtype=torch.float64).log_softmax(-1)
    each = loss.k3(p, q)
    assert (each >= 0).all()
    exact = (p.exp() * (p - q)).sum()
    assert float((p.exp() * each).sum()) == pytest.approx(float(exact))
    assert float(loss.kl_terms(p[None], q[None])[0]) == pytest.approx(float(exact))


def test_k3_of_what_the_policy_has_all_but_unlearnt_is_finite():
    policy = torch.tensor([-20.0, -22.0, -95.0, -1000.0, -1.0], requires_grad=True)
    each = loss.k3(policy, torch.tensor([-1.0, -1.0, -1.0, -1.0, -1000.0]))
    each.sum().backward()
    largest = [math.exp(19) - 20, *[math.exp(20) - 21] * 3, 998.0]
    assert each.tolist() == pytest.approx(largest, rel=1e-6)
    assert policy.grad.tolist() == pytest.approx([1 - math.exp(19), 0.0, 0.0, 0.0, 1.0], rel=1e-6)


def test_an_answer_that_drifted_a_little_at_each_token_has_a_gradient():
    logprobs = torch.full((2048,), -1.0, requires_grad=True)
    old, turns = torch.full((2048,), -1.05), torch.zeros(2048, dtype=torch.long)
    for advantage in (1.0, -1.0):
        terms = loss.policy_terms(
            logprobs,
            old,
            old,
            torch.full((2048,), advantage),
            torch.ones(2048),
            turns,
            PPOConfig(ratio_level="turn"),
        )
        terms.loss.sum().backward()
        assert torch.isfinite(terms.loss).all()
        assert logprobs.grad.tolist() == [0.0] * 2048


def test_k2_has_the_gradient_of_the_exact_kl_where_k3_has_not():
    torch.manual_seed(0)
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    other = torch.randn(6, dtype=torch.float64).log_softmax(-1)

    def gradient(value):
        return torch.autograd.grad(value, logits)[0]

    exact = gradient(loss.kl_terms(logits.log_softmax(-1), other))
    policy = logits.log_softmax(-1)
    k2 = gradient((policy.detach().exp() * loss.k2(policy, other)).sum())
    policy = logits.log_softmax(-1)
    k3 = gradient((policy.detach().exp() * loss.k3(policy, other)).sum())
    torch.testing.assert_close(k2, exact)
    assert not torch.allclose(k3, exact, atol=1e-3)
    assert loss.k2(torch.tensor([-1.0]), torch.tensor([-3.0])).tolist() == [2.0]


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token", [1 / 20] * 6),
        ("turn", [1 / 2 / 7] * 2 + [1 / 7] + [1 / 3 / 7] * 3),
        ("constant", [1 / 16 / 7] * 6),
    ],
)
def test_what_a_token_counts_in_the_loss(aggregation, expected):
    turns, counts = torch.tensor([0, 0, 1, 2, 2, 2]), loss.Counts(tokens=20, turns=7, values=7)
    shares = loss.token_shares(turns, PPOConfig(aggregation=aggregation), counts, 16)
    torch.testing.assert_close(shares, torch.tensor(expected))


def test_sft_terms():
    logprobs = torch.tensor([-0.1, -2.0], requires_grad=True)
    assert loss.cross_entropy_terms(logprobs).tolist() == pytest.approx([0.1, 2.0])
    loss.dft_terms(logprobs).sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-math.exp(-0.1), -math.exp(-2.0)])


@pytest.mark.parametrize("correction", ["truncated", "masked", "sequence", "none"])
@pytest.mark.parametrize("level", ["token", "turn"])
def test_older_policies_tokens_are_weighed_by_the_chosen_correction(correction, level):
    """Against the formula, token by token; w of the two answers: 0.3 and 2.4, 1.1."""
    behavior, proximal = torch.log(torch.tensor([[0.5, 0.2, 0.5], [0.15, 0.48, 0.55]]))
    current, advantages = proximal + 0.05, torch.tensor([1.0, -2.0, 3.0])
    turns = torch.tensor([0, 0, 1])
    terms = loss.policy_terms(
        current,
        proximal,
        behavior,
        advantages,
        torch.ones(3),
        turns,
        PPOConfig(clip=0.1, correction_cap=2.0, ratio_level=level, correction=correction),
    )
    w, ratio = (proximal - behavior).exp(), (current - proximal).exp()
    if correction == "none":
        ratio = (current - behavior).exp()
    if level == "turn":
        w, ratio = (torch.stack([x[:2].prod(), x[2]]) for x in (w, ratio))
        advantages = torch.tensor([-0.5, 3.0])
    elif correction == "sequence":
        w = torch.stack([w[:2].prod(), w[:2].prod(), w[2]])
    factor = {
        "truncated": w.clamp(max=2.0),
        "masked": torch.where((w >= 0.5) & (w <= 2.0), w, 0.0),
        "sequence": w.clamp(max=2.0),
        "none": torch.ones_like(w),
    }[correction]
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
    torch.testing.assert_close(terms.loss, -factor * surrogate)
