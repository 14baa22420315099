"""Whether two engines that played the same episodes have the same weights.

Equal seeds draw equal tokens from equal weights; where rounding parts the draws, what comes before
is compared.
"""

from __future__ import annotations

import numpy as np

from rollout.trajectory import Segment, Trajectory


def difference(pairs: list[tuple[Trajectory, Trajectory]]) -> tuple[float, int] | None:
    """The mean absolute difference of log-probabilities, and of how many action tokens.

    Only tokens count that have the same tokens before them and are of the same policy version.
    None: no pair was played to its end.
    """
    ended = [pair for pair in pairs if all(play.end != "failed" for play in pair)]
    if not ended:
        return None
    total, tokens = 0.0, 0
    for one, other in ended:
        for mine, yours in zip(one.segments, other.segments, strict=False):
            equal = _equal_tokens(mine, yours)
            common = mine.action_mask[:equal] & yours.action_mask[:equal]
            common &= mine.policy_versions[:equal] == yours.policy_versions[:equal]
            apart = mine.behavior_logprobs[:equal] - yours.behavior_logprobs[:equal]
            total += float(np.abs(apart[common]).sum(dtype=np.float64))
            tokens += int(common.sum())
            if equal < max(len(mine.token_ids), len(yours.token_ids)):
                break
    return total / max(tokens, 1), tokens


def _equal_tokens(mine: Segment, yours: Segment) -> int:
    """How many tokens the segments begin with in common."""
    shortest = min(len(mine.token_ids), len(yours.token_ids))
    unequal = mine.token_ids[:shortest] != yours.token_ids[:shortest]
    return int(unequal.argmax()) if unequal.any() else shortest
