"""Rollouts alone: tokens are of the initial model, and a line tells what was played."""

import numpy as np
import pytest

from cluster.driver.rollout_only import _of_version, summary
from cluster.stream.collect import Batch
from tests.rollout.test_trajectory import segment, trajectory


def test_sampled_tokens_are_of_version_0_and_prompts_of_none():
    played = trajectory(segments=(segment([(3, 5)], 8),))
    (changed,) = _of_version(played).segments
    assert changed.policy_versions.tolist() == [-1, -1, -1, 0, 0, -1, -1, -1]
    assert changed.policy_versions.dtype == np.int32
    assert changed.token_ids is played.segments[0].token_ids


@pytest.mark.parametrize(
    ("engines", "shown"), [([0.25, None, 0.75], ", engines idle 50%"), ([None], "")]
)
def test_a_line_counts_ends_and_what_failed(engines, shown):
    played = [trajectory("a"), trajectory("b", end="truncated", metrics={"success": 0.0})]
    batch = Batch(played, 2, {"failed": 3, "engine_idle": engines})
    line = summary(4, played, batch, 2.0)
    assert line == (
        "update 4: 2 episodes (1 terminated, 1 truncated, 3 failed) in 2.0 s; success 50.0%, "
        "reward -2.00, 14 sampled tokens" + shown
    )
