"""Advantages and value targets of one episode or one batch, in plain NumPy, float64.

Input: rewards and values. Output: advantages and value targets. Statistics of the whole batch
are computed from sums, which the caller adds over ranks (`all_sum`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
EPS = 1e-8
ROUNDING = 1e-7  # of the mean: a deviation of no more is none; rewards and values are float32


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    gamma: ArrayLike,
    lam: float,
    bootstrap: float = 0.0,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation over one episode (Schulman et al. 2016, eq. 16).

    delta_k = r_k + gamma_k V(s_{k+1}) - V(s_k);  A_k = delta_k + gamma_k lambda A_{k+1}.
    What follows the last step enters through `bootstrap` alone.

    Args:
        rewards: [K], one per turn (or token).
        values: [K], V(s_k) before each turn (or token).
        gamma: discount between step k and k + 1, one number or [K].
        lam: lambda.
        bootstrap: V of the state after the last step; 0 where the episode is over.

    Returns:
        advantages [K], and value targets [K] = advantages + values.
    """
    rewards, values = np.asarray(rewards, np.float64), np.asarray(values, np.float64)
    discounts = np.broadcast_to(np.asarray(gamma, np.float64), rewards.shape)
    following = np.append(values[1:], bootstrap)[: len(rewards)]
    deltas = rewards + discounts * following - values
    advantages = np.zeros_like(deltas)
    running = 0.0
    for k in reversed(range(len(deltas))):
        running = deltas[k] + discounts[k] * lam * running
        advantages[k] = running
    return advantages, advantages + values


def token_rewards(rewards: ArrayLike, lengths: ArrayLike, gamma: float) -> tuple[Floats, Floats]:
    """Rewards and discounts of an episode's action tokens, from those of its turns.

    A turn's reward belongs to its last token, and only that token is discounted (by gamma):
    the discount depends on the number of turns, not on the lengths of answers.

    Args:
        rewards: [K], one per turn.
        lengths: int [K], action tokens of each turn, at least 1.
        gamma: discount per turn.

    Returns:
        rewards [A] and discounts [A] of the A action tokens.
    """
    counts = np.asarray(lengths, np.int64)
    last = np.cumsum(counts) - 1
    per_token, discounts = np.zeros(int(counts.sum())), np.ones(int(counts.sum()))
    per_token[last] = np.asarray(rewards, np.float64)
    discounts[last] = gamma
    return per_token, discounts


def grpo(
    returns: ArrayLike,
    groups: Iterable[Hashable],
    weights: ArrayLike,
    deviation: str = "sample",
) -> Floats:
    """Return minus the group's mean, over the group's standard deviation (Shao et al. 2024).

    Args:
        returns: [B], undiscounted sum of each trajectory's rewards.
        groups: [B], group of each trajectory: those of one seed share one.
        weights: [B], of the returns in the mean; ones, or see `baseline`.
        deviation: the sample's (over n - 1), the population's (over n), or none: 1.

    Returns:
        advantages [B]; 0 where all returns of a group are equal, but for rounding.
    """

    def compared(r: Floats, w: Floats) -> Floats:
        center = r - baseline(r, w)
        if deviation == "none":
            return center
        return center / (r.std(ddof=1 if deviation == "sample" else 0) + EPS)

    return _by_group(returns, groups, weights, compared)


def rloo(returns: ArrayLike, groups: Iterable[Hashable], weights: ArrayLike) -> Floats:
    """Return minus the mean return of the others in its group (Ahmadian et al. 2024).

    Arguments and result as of `grpo`.
    """

    def leave_one_out(r: Floats, w: Floats) -> Floats:
        return r - [baseline(np.delete(r, i), np.delete(w, i)) for i in range(len(r))]

    return _by_group(returns, groups, weights, leave_one_out)


def reinforce_pp(returns: ArrayLike) -> Floats:
    """The return itself [B]; the baseline is the batch's mean (`normalize`, Hu 2025)."""
    return np.asarray(returns, np.float64).copy()


def _by_group(
    returns: ArrayLike,
    groups: Iterable[Hashable],
    weights: ArrayLike,
    advantage: Callable[[Floats, Floats], Floats],
) -> Floats:
    values, factors = np.asarray(returns, np.float64), np.asarray(weights, np.float64)
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    result = np.zeros_like(values)
    for indices in members.values():
        if spread([values[indices]]).deviation != 0:  # else rounding over rounding
            result[indices] = advantage(values[indices], factors[indices])
    return result


def share_without_signal(returns: Iterable[float], groups: Iterable[Hashable]) -> float:
    """Share of the groups whose returns are all equal: grpo and rloo learn nothing from them."""
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(returns, groups, strict=True):
        members.setdefault(group, []).append(value)
    equal = [spread([values]).deviation == 0 for values in members.values()]
    return sum(equal) / max(1, len(equal))


class Spread(NamedTuple):
    """Mean and standard deviation (over n); a deviation that may be rounding alone is 0."""

    mean: float
    deviation: float


def spread(
    values: Iterable[ArrayLike], all_sum: Callable[[ArrayLike], Floats] = np.asarray
) -> Spread:
    """Mean and deviation of all values, in two passes: `all_sum` adds the sums of each over ranks.

    In one, by the mean of squares, rounding hides small deviations of large values, or is one.
    """
    flat = np.concatenate([np.zeros(0), *(np.ravel(np.asarray(v, np.float64)) for v in values)])
    count, total = all_sum([flat.size, flat.sum()])
    mean = total / max(count, 1)
    (squares,) = all_sum([((flat - mean) ** 2).sum()])
    deviation = np.sqrt(squares / max(count, 1))
    rounding = deviation <= ROUNDING * abs(mean)  # no NaN is
    return Spread(float(mean), 0.0 if rounding else float(deviation))


def weighted_sums(values: Iterable[ArrayLike], weights: Iterable[ArrayLike]) -> Floats:
    """Sums of the weights and of weight times value, float64 [2]; those of ranks add up."""
    pairs = [
        (np.asarray(v, np.float64), np.asarray(w, np.float64))
        for v, w in zip(values, weights, strict=True)
    ]
    return np.array([sum(w.sum() for _, w in pairs), sum((w * v).sum() for v, w in pairs)])


def baseline(values: Floats, weights: Floats) -> float:
    """Weighted mean of the values [B]; their plain mean where there is no weight.

    With W the squared norm of each value's score function (that of the log-probability of what
    was done), E[R W] / E[W] is the constant of least variance in REINFORCE (Weaver and Tao 2001).
    """
    return float(np.average(values, weights=weights if weights.sum() > EPS else None))


def normalize(values: ArrayLike, batch: Spread, sums: ArrayLike | None = None) -> Floats:
    """(values - mean) / standard deviation, both of the whole batch; 0 where it has no deviation.

    With the batch's `weighted_sums` the mean is the weighted one; the deviation is not.
    """
    own, center = np.asarray(values, np.float64), batch.mean
    if batch.deviation == 0:
        return np.zeros_like(own)
    if sums is not None:
        weight, weighted = np.asarray(sums, np.float64)
        center = weighted / weight if weight > EPS else center
    return (own - center) / (batch.deviation + EPS)


def explained_variance(errors: Spread, targets: Spread) -> float:
    """1 - Var(target - V) / Var(target) of the batch.

    Returns:
        at most 1; 0 where the targets do not vary.
    """
    variance = targets.deviation**2
    return 1.0 - errors.deviation**2 / variance if variance > EPS else 0.0
