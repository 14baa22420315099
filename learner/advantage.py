"""Advantages and value targets of one episode or one batch, in plain NumPy, float64.

Rewards and values go in, advantages and returns come out; what needs the whole batch takes
sums that the caller has added over ranks. Nothing here knows of tokens, models or ranks.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
EPS = 1e-8


def gae(
    rewards: ArrayLike,
    values: ArrayLike,
    gamma: ArrayLike,
    lam: float,
    bootstrap: float = 0.0,
) -> tuple[Floats, Floats]:
    """Generalised advantage estimation over one episode (Schulman et al. 2016, eq. 16).

    delta_k = r_k + gamma_k V(s_{k+1}) - V(s_k);  A_k = delta_k + gamma_k lambda A_{k+1}.
    Nothing comes in from beyond the end but `bootstrap`.

    Args:
        rewards: [K], one a turn (or a token).
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


def token_steps(rewards: ArrayLike, lengths: ArrayLike, gamma: float) -> tuple[Floats, Floats]:
    """Per-token rewards and discounts of an episode's turns.

    A turn's reward comes with its last token; time passes (gamma) only from turn to turn, so
    that long answers are not discounted away.

    Args:
        rewards: [K], one a turn.
        lengths: int [K], action tokens of each turn, at least 1.
        gamma: discount a turn.

    Returns:
        rewards [A] and discounts [A] of the A action tokens.
    """
    counts = np.asarray(lengths, np.int64)
    last = np.cumsum(counts) - 1
    token_rewards, discounts = np.zeros(int(counts.sum())), np.ones(int(counts.sum()))
    token_rewards[last] = np.asarray(rewards, np.float64)
    discounts[last] = gamma
    return token_rewards, discounts


def grpo(returns: ArrayLike, groups: Iterable[Hashable]) -> Floats:
    """Return minus the group's mean, over the group's standard deviation (Shao et al. 2024).

    Args:
        returns: [B], undiscounted sum of each trajectory's rewards.
        groups: [B], trajectories that played one seed share a group.

    Returns:
        advantages [B]; 0 where all of a group did equally well.
    """
    return _by_group(returns, groups, lambda r: (r - r.mean()) / (r.std() + EPS))


def rloo(returns: ArrayLike, groups: Iterable[Hashable]) -> Floats:
    """Return minus the mean of the group's others (Ahmadian et al. 2024); [B] to [B].

    A trajectory alone in its group has nothing to compare with: 0.
    """

    def leave_one_out(r: Floats) -> Floats:
        if len(r) == 1:
            return np.zeros(1)
        return r - (r.sum() - r) / (len(r) - 1)

    return _by_group(returns, groups, leave_one_out)


def reinforce_pp(returns: ArrayLike) -> Floats:
    """The return itself [B]; the baseline is the batch's mean (`normalize`, Hu 2025)."""
    return np.asarray(returns, np.float64).copy()


def _by_group(returns: ArrayLike, groups: Iterable[Hashable], advantage) -> Floats:  # type: ignore[no-untyped-def]
    values = np.asarray(returns, np.float64)
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    result = np.zeros_like(values)
    for places in members.values():
        result[places] = advantage(values[places])
    return result


def moments(values: Iterable[ArrayLike]) -> Floats:
    """Count, sum and sum of squares, float64 [3]; add these over ranks."""
    flat = [np.asarray(v, np.float64) for v in values]
    return np.array(
        [sum(v.size for v in flat), sum(v.sum() for v in flat), sum((v * v).sum() for v in flat)]
    )


def normalize(values: ArrayLike, batch: ArrayLike) -> Floats:
    """(values - mean) / standard deviation of the whole batch, given its `moments`."""
    count, total, squares = np.asarray(batch, np.float64)
    if count == 0:
        return np.asarray(values, np.float64)
    mean = total / count
    deviation = np.sqrt(max(squares / count - mean * mean, 0.0))
    return (np.asarray(values, np.float64) - mean) / (deviation + EPS)


def explained_variance(errors: ArrayLike, targets: ArrayLike) -> float:
    """1 - Var(target - V) / Var(target) of the batch, given the `moments` of both.

    Returns:
        at most 1; 0 where the targets do not vary.
    """
    (n, a, aa), (m, b, bb) = np.asarray(errors, np.float64), np.asarray(targets, np.float64)
    variance = bb / max(m, 1) - (b / max(m, 1)) ** 2
    return (
        float(1.0 - (aa / max(n, 1) - (a / max(n, 1)) ** 2) / variance) if variance > EPS else 0.0
    )
