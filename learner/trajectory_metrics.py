"""What the records say of an update's trajectories, whatever is learned from them.

Input: this rank's trajectories. Output: figures of all ranks' together.
"""

from __future__ import annotations

import numpy as np

from configs.schema import PPOConfig
from learner import advantage, distributed
from rollout.trajectory import Trajectory


def trajectory_metrics(trajectories: list[Trajectory], version: int) -> dict[str, float]:
    """Means over all ranks' trajectories that did not fail, and counts; collective.

    truncated is the share of them that were; truncated_not_bootstrapped the share of these without
    the value of a next prompt: all, but with ppo.trunc_bootstrap those where it did not fit.
    """
    valid = [t for t in trajectories if t.end != "failed"]
    cut = [t for t in valid if t.end == "truncated"]
    sums = distributed.all_sum(
        [
            len(valid),
            len(trajectories) - len(valid),
            sum(t.tokens for t in valid),
            sum(len(t.segments) for t in valid),
            sum(t.total_reward for t in valid),
            sum(t.metrics.get("success", 0.0) for t in valid),
            sum(t.metrics.get("first_try", 0.0) for t in valid),
            len(cut),
            sum(not t.bootstrap for t in cut),
        ]
    ).tolist()
    episodes, failed, tokens, segments, reward, success, first_try, truncated, bare = sums
    staleness = [version - t.oldest_version for t in valid if t.action_tokens]
    return {
        "episodes": episodes,
        "failed": failed,
        "tokens": tokens,
        "segments": segments,
        "reward": reward / max(episodes, 1),
        "success": success / max(episodes, 1),
        "first_try": first_try / max(episodes, 1),
        "truncated": truncated / max(episodes, 1),
        "truncated_not_bootstrapped": bare / max(truncated, 1),
        "staleness_max": float(distributed.all_max(max(staleness, default=0))[0]),
        **environment_metrics(valid),
    }


def group_metrics(trajectories: list[Trajectory], ppo: PPOConfig) -> dict[str, float]:
    """groups_without_signal (grpo, rloo): share whose plays have equal returns; collective.

    Of the environment's rewards: with ppo.kl_in=reward the KL tells such plays apart all the same.
    """
    if ppo.estimator not in ("grpo", "rloo"):
        return {}
    own = [(t.total_reward, t.group_id) for t in trajectories if t.end != "failed"]
    pairs = [pair for share in distributed.all_gather(own) for pair in share]
    returns, groups = ([pair[i] for pair in pairs] for i in range(2))
    return {"groups_without_signal": advantage.share_without_signal(returns, groups)}


def environment_metrics(trajectories: list[Trajectory]) -> dict[str, float]:
    """metric_NAME: mean of each other metric of the environment (recognition, …); collective."""
    own: dict[str, tuple[float, int]] = {}
    for t in trajectories:
        for name, value in t.metrics.items():
            total, count = own.get(name, (0.0, 0))
            own[name] = (total + value, count + 1)
    shares = distributed.all_gather(own)
    names = sorted({name for share in shares for name in share} - {"success", "first_try"})
    sums = {name: np.sum([share.get(name, (0, 0)) for share in shares], axis=0) for name in names}
    return {f"metric_{name}": float(total / count) for name, (total, count) in sums.items()}
