"""Advantages against references written from the formulas, on random episodes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from learner import advantage


def gae_by_sums(rewards, values, gammas, lam, bootstrap):
    """A_k = sum over l of (prod of gamma lambda from k to l) * delta_l, as a double loop."""
    k_count = len(rewards)
    following = [*list(values[1:]), bootstrap]
    result = []
    for k in range(k_count):
        total, weight = 0.0, 1.0
        for step in range(k, k_count):
            delta = rewards[step] + gammas[step] * following[step] - values[step]
            total += weight * delta
            weight *= gammas[step] * lam
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize("seed", range(20))
def test_gae_is_the_sum_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    rewards, values = rng.normal(size=(2, n))
    gammas = rng.uniform(0.5, 1, n) if seed % 2 else np.full(n, 0.9)
    bootstrap = float(rng.normal()) if seed % 3 else 0.0
    advantages, targets = advantage.gae(rewards, values, gammas, 0.95, bootstrap)
    expected = gae_by_sums(rewards, values, gammas, 0.95, bootstrap)
    np.testing.assert_allclose(advantages, expected, rtol=1e-12)
    np.testing.assert_allclose(targets, expected + values, rtol=1e-12)


def test_gae_by_hand():
    advantages, targets = advantage.gae([-1.0, 5.0], [0.5, 2.0], 0.9, 0.95)
    # delta_2 = 5 - 2 = 3;  delta_1 = -1 + 0.9 * 2 - 0.5 = 0.3;  A_1 = 0.3 + 0.855 * 3
    np.testing.assert_allclose(advantages, [2.865, 3.0])
    np.testing.assert_allclose(targets, [3.365, 5.0])


def test_lambda_one_gives_returns_and_truncation_adds_the_bootstrap():
    _, targets = advantage.gae([1.0, 2.0], [7.0, -3.0], 0.5, 1.0, bootstrap=4.0)
    np.testing.assert_allclose(targets, [1 + 0.5 * 2 + 0.25 * 4, 2 + 0.5 * 4])


def test_a_turns_reward_and_discount_are_those_of_its_last_token():
    rewards, discounts = advantage.token_rewards([3.0, -1.0], [2, 3], 0.9)
    np.testing.assert_array_equal(rewards, [0, 3, 0, 0, -1])
    np.testing.assert_array_equal(discounts, [1, 0.9, 1, 1, 0.9])


def test_one_token_a_turn_makes_token_gae_turn_gae():
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(2, 6))
    steps = advantage.token_rewards(rewards, np.ones(6, int), 0.9)
    a = advantage.gae(steps[0], values, steps[1], 0.95, 1.5)
    b = advantage.gae(rewards, values, 0.9, 0.95, 1.5)
    np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("deviation", ["sample", "population", "none"])
@pytest.mark.parametrize("seed", range(5))
def test_group_estimators(seed, deviation):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 5, 20).tolist()
    returns = rng.normal(size=20)
    ones = np.ones(20)
    grpo = advantage.grpo(returns, groups, ones, deviation)
    rloo = advantage.rloo(returns, groups, ones)
    for i in range(20):
        group_returns = [returns[j] for j in range(20) if groups[j] == groups[i]]
        others = [returns[j] for j in range(20) if groups[j] == groups[i] and j != i]
        mean = sum(group_returns) / len(group_returns)
        squares = sum((m - mean) ** 2 for m in group_returns)
        count = len(group_returns) - (deviation == "sample")
        scale = 1.0 if deviation == "none" else (squares / max(count, 1)) ** 0.5 + 1e-8
        assert grpo[i] == pytest.approx((returns[i] - mean) / scale, abs=1e-6)
        expected = returns[i] - sum(others) / len(others) if others else 0.0
        assert rloo[i] == pytest.approx(expected)
    np.testing.assert_array_equal(advantage.reinforce_pp(returns), returns)


@pytest.mark.parametrize("estimator", [advantage.grpo, advantage.rloo])
@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 0, 1e-9, 0.7], [0, 0, 0, 0]])
def test_a_group_that_does_equally_well_teaches_nothing(estimator, weights):
    for each in (0.1, -1.0, 5.0):
        equal = estimator([each, each, each, 1.0], [0, 0, 0, 1], weights)
        np.testing.assert_array_equal(equal, [0, 0, 0, 0])


@pytest.mark.parametrize("weights", [[0.0] * 8, [1e-10] * 4 + [0.0] * 4])
def test_returns_without_weight_are_compared_with_their_plain_mean(weights):
    """A policy that is sure of all its answers, in a random environment."""
    returns, groups = [1.0] * 7 + [0.0], [0] * 8
    for estimator in (advantage.grpo, advantage.rloo):
        np.testing.assert_array_equal(
            estimator(returns, groups, weights), estimator(returns, groups, [1.0] * 8)
        )


def test_an_unlikely_answer_among_sure_ones_is_compared_with_them():
    own = advantage.rloo([1.0, 0.5, 0.0], [0, 0, 0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(own, [1.0, 0.5, -0.75])


@pytest.mark.parametrize(
    ("returns", "groups", "share"),
    [([1, 1, 2, 1, 0], "aabbc", 2 / 3), ([1, 0], "aa", 0.0), ([1, 0], "ab", 1.0), ([], "", 0.0)],
)
def test_the_share_of_groups_without_signal(returns, groups, share):
    assert advantage.share_without_signal(returns, groups) == pytest.approx(share)


def spread_over_ranks(parts):
    """The spread as each rank has it, of so many ranks with a part each."""
    everyone, sums = threading.Barrier(len(parts), timeout=60), {}

    def rank(own):
        def all_sum(values):
            everyone.wait()
            sums[own] = np.asarray(values, np.float64)
            everyone.wait()
            return sum(sums.values())

        return advantage.spread([parts[own]], all_sum)

    with ThreadPoolExecutor(len(parts)) as pool:
        return [*pool.map(rank, range(len(parts)))]


def test_normalize_over_the_ranks_of_a_batch():
    rng = np.random.default_rng(0)
    parts = [rng.normal(3, 2, size=n) for n in (5, 1, 0, 9)]
    batch, *others = spread_over_ranks(parts)
    assert others == [batch] * 3
    whole = np.concatenate(parts)
    normalized = np.concatenate([advantage.normalize(p, batch) for p in parts])
    np.testing.assert_allclose(normalized, (whole - whole.mean()) / whole.std(), rtol=1e-6)
    assert advantage.normalize([], advantage.spread([])).tolist() == []


LARGE = [1000.3, -12345.678, 1e5 + 0.3, 1e7 + 0.1, 1e12]


@pytest.mark.parametrize("value", [0.0, 0.1, *LARGE])
def test_equal_values_of_any_size_have_no_advantage(value):
    """Each by itself, as turns come: such sums of 57,000 lose digits."""
    values = [np.full(1, value)] * 57_000
    batch = advantage.spread(values)
    assert batch == (pytest.approx(value), 0.0)
    np.testing.assert_array_equal(advantage.normalize(values[0], batch, [2.0, 2.1 * value]), 0.0)


@pytest.mark.parametrize("value", LARGE)
def test_small_differences_of_large_values_are_kept(value):
    differences = np.random.default_rng(0).normal(0, 1e-5 * abs(value), 4096)
    values = np.float64(value) + differences
    parts = np.split(values, 4)
    for batch in spread_over_ranks(parts):
        own = advantage.normalize(values, batch)
        np.testing.assert_allclose(own, differences / differences.std(), rtol=0, atol=0.1)
        assert own.std() == pytest.approx(1.0, abs=1e-4)
    grpo = advantage.grpo(values[:8], [0] * 8, np.ones(8))
    np.testing.assert_allclose(grpo.std(ddof=1), 1.0, rtol=1e-3)


@pytest.mark.parametrize("scale", [1.0, -1e3, 1e9])
def test_returns_that_differ_by_the_rounding_of_float32_are_equal(scale):
    """0.1 + 0.2 and 0.3, as rewards come."""
    returns = [scale * float(np.float32(0.3)), scale * sum(map(float, np.float32([0.1, 0.2])))]
    assert returns[0] != returns[1]
    for estimator in (advantage.grpo, advantage.rloo):
        assert estimator(returns * 2, [0] * 4, np.ones(4)).tolist() == [0.0] * 4
    assert advantage.share_without_signal(returns, [0, 0]) == 1.0
    assert advantage.normalize(returns, advantage.spread([returns])).tolist() == [0.0, 0.0]


def test_what_is_no_number_does_not_pass_for_equal():
    broken = [1.0, np.nan, 1.0]
    assert np.isnan(advantage.normalize(broken, advantage.spread([broken]))).all()
    assert np.isnan(advantage.grpo(broken, [0] * 3, np.ones(3))).all()


@pytest.mark.parametrize("mean", [0.0, 1e5])
def test_explained_variance(mean):
    rng = np.random.default_rng(1)
    targets = mean + rng.normal(size=50)
    values = targets + 0.5 * rng.normal(size=50) - 1e6
    errors, spread = advantage.spread([targets - values]), advantage.spread([targets])
    explained = advantage.explained_variance(errors, spread)
    assert explained == pytest.approx(1 - (targets - values).var() / targets.var())
    assert advantage.explained_variance(errors, advantage.spread([np.full(50, mean)])) == 0.0


def test_the_optimal_baseline_has_the_least_variance():
    """REINFORCE's gradient of a softmax over three actions, exactly, for each constant."""
    logits, rewards = np.array([1.0, 0.0, -2.0]), np.array([0.0, 1.0, 5.0])
    p = np.exp(logits) / np.exp(logits).sum()
    scores = np.eye(3) - p  # of each action, by the logits

    def moments(constant):
        gradients = (rewards - constant)[:, None] * scores
        mean = p @ gradients
        return mean, p @ ((gradients - mean) ** 2).sum(1)

    norms = (scores**2).sum(1)
    best = advantage.baseline(rewards, p * norms)
    mean, least = moments(best)
    np.testing.assert_allclose(mean, moments(p @ rewards)[0])  # of any constant: unbiased
    assert least < 0.8 * moments(p @ rewards)[1]
    for constant in (best - 0.1, best + 0.1):
        assert moments(constant)[1] > least


def test_group_estimators_weigh_the_returns_that_they_compare_with():
    returns, weights, groups = [1.0, 0.0, 4.0, 3.0], [1.0, 3.0, 0.0, 2.0], [0, 0, 0, 1]
    deviation = np.std(returns[:3], ddof=1) + advantage.EPS
    np.testing.assert_allclose(
        advantage.grpo(returns, groups, weights), [*(np.array([0.75, -0.25, 3.75]) / deviation), 0]
    )
    np.testing.assert_allclose(
        advantage.rloo(returns, groups, weights), [1 - 0.0, 0.0 - 1.0, 4 - 0.25, 0.0]
    )


def test_normalize_around_the_weighted_mean_of_all_parts():
    rng = np.random.default_rng(0)
    parts, weights = [rng.normal(3, 2, 5), rng.normal(3, 2, 3)], [rng.random(5), rng.random(3)]
    sums = advantage.weighted_sums(parts[:1], weights[:1])
    sums += advantage.weighted_sums(parts[1:], weights[1:])
    values, factors = np.concatenate(parts), np.concatenate(weights)
    center = np.average(values, weights=factors)
    batch = advantage.spread(parts)
    np.testing.assert_allclose(
        advantage.normalize(parts[1], batch, sums), (parts[1] - center) / values.std(), rtol=1e-6
    )
    unweighted = advantage.normalize(parts[1], batch, [0.0, 0.0])
    np.testing.assert_array_equal(unweighted, advantage.normalize(parts[1], batch))
