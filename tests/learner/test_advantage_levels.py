"""Advantages: of two segments at each level, by hand; of groups over ranks, each its own."""

from __future__ import annotations

import numpy as np
import pytest

from learner import ppo
from learner.training_trajectory import prepare
from rollout.trajectory import Segment, Trajectory, Turn
from tests.support.learner import config, trajectories

REPEATED = [0.6875, 0.6875, -1.25, 1.0, 1.0, 1.0]
TOKENS = [-0.234375, 1.53125, -1.875, -1.5, 1.0, 4.0]


def segment(turns, length):
    mask = np.zeros(length, bool)
    for turn in turns:
        mask[turn.begin : turn.end] = True
    zeros = np.zeros(length)
    versions = np.where(mask, 0, -1).astype(np.int32)
    return Segment(zeros.astype(np.int32), mask, zeros.astype(np.float32), versions, tuple(turns))


def two_segments():
    """Turns of 2 and 1 action tokens, then in a prompt of its own one of 3; it was truncated."""
    first = segment([Turn(1, 3, 1.0), Turn(4, 5, -1.0)], 5)
    second = segment([Turn(2, 5, 2.0)], 7)
    return Trajectory("a", "e", "v", 0, 0, (first, second), "truncated", bootstrap=True)


@pytest.mark.parametrize(
    ("levels", "values", "advantages", "targets"),
    [
        (("turn", "turn"), [1, 2, 3], REPEATED, [1.6875, 0.75, 4]),
        (
            ("token", "turn"),
            [1, 9, 2, 3, 8, 7],
            REPEATED,
            [1.6875, 1.6875, 0.75, 4, 4, 4],
        ),
        (
            ("token", "token"),
            [1, 0, 2, 3, 1, 0],
            TOKENS,
            [0.765625, 1.53125, 0.125, 1.5, 2, 4],
        ),
    ],
)
def test_an_episode_is_one_over_its_segments_and_goes_on_after_its_truncation(
    levels, values, advantages, targets
):
    """A turn's value is that before its first token; only its last token is discounted."""
    value_level, advantage_level = levels
    cfg = config(
        value_level=value_level,
        advantage_level=advantage_level,
        gamma=0.5,
        lam=0.5,
        normalize_advantages=False,
    )
    (t,) = prepare([two_segments()], value_level)
    assert t.turn_lengths.tolist() == [2, 1, 3]
    assert len(values) == t.states
    t.values, t.bootstrap_value = np.array(values, np.float32), 4.0
    ppo._set_advantages([t], cfg.ppo)
    assert t.advantages.tolist() == advantages
    assert t.value_targets.tolist() == targets


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_pp"])
def test_each_rank_has_the_advantages_of_its_own_trajectories(monkeypatch, estimator):
    """A group's plays may be on several ranks: here the first group's, on both."""
    cfg, prepared = config(estimator=estimator).ppo, prepare(trajectories(8), "turn")
    whole = ppo._compare_returns(prepared, cfg).tolist()
    owned, shares = (prepared[:3], prepared[3:]), []
    monkeypatch.setattr(ppo.distributed, "all_gather", lambda own: shares.append(own) or [own])
    for own in owned:
        ppo._compare_returns(own, cfg)
    monkeypatch.setattr(ppo.distributed, "all_gather", lambda own: shares)
    found = []
    for rank, own in enumerate(owned):
        monkeypatch.setattr(ppo.distributed, "rank", lambda rank=rank: rank)
        found += ppo._compare_returns(own, cfg).tolist()
    assert found == whole
    assert len(set(whole)) == 8
