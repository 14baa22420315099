"""What the records say of trajectories, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learner import distributed
from learner.trajectory_metrics import environment_metrics, group_metrics, trajectory_metrics
from tests.support.learner import config, trajectories, trajectory
from tests.support.trajectories import mark_failed


def test_groups_without_signal_are_counted():
    played = trajectories(12)  # three groups of four
    even = [
        replace(
            t,
            segments=tuple(
                replace(s, turns=tuple(replace(turn, reward=0.0) for turn in s.turns))
                for s in t.segments
            ),
        )
        for t in played[:4]
    ]
    broken = [mark_failed(t, "x") for t in played[8:11]]  # one is left, alone
    measured = group_metrics([*even, *played[4:8], *broken, played[11]], config().ppo)
    assert measured == {}
    cfg = config(estimator="rloo").ppo
    measured = group_metrics([*even, *played[4:8], *broken, played[11]], cfg)
    assert measured == {"groups_without_signal": pytest.approx(2 / 3)}


def test_other_metrics_are_means_over_the_trajectories_that_have_them():
    played = trajectories(4)
    measured = [
        replace(t, metrics=t.metrics | ({"recognition": share} if share is not None else {}))
        for t, share in zip(played, (1.0, 0.5, None, 0.0), strict=True)
    ]
    assert environment_metrics(measured) == {"metric_recognition": 0.5}


def on_two_ranks(monkeypatch, measure, first, second):
    """What the first of two ranks measures, whose trajectories are these."""
    given = []
    monkeypatch.setattr(distributed, "all_sum", lambda own: given.append(own) or np.asarray(own))
    monkeypatch.setattr(distributed, "all_max", lambda own: given.append(own) or np.array([own]))
    monkeypatch.setattr(distributed, "all_gather", lambda own: given.append(own) or [own])
    measure(second)
    others = iter(given)
    monkeypatch.setattr(distributed, "all_sum", lambda own: np.add(own, next(others)))
    monkeypatch.setattr(distributed, "all_max", lambda own: np.array([max(own, next(others))]))
    monkeypatch.setattr(distributed, "all_gather", lambda own: [own, next(others)])
    return measure(first)


def played_differently():
    """Eight trajectories, of which the sixth failed and the last has no action token."""
    made = [
        replace(t, metrics={"success": float(i < 3), "first_try": float(i == 1), "legs": float(i)})
        for i, t in enumerate(trajectories(8))
    ]
    made[5] = mark_failed(made[5], "x")
    silent = made[7].segments[0]
    silent = replace(silent, action_mask=np.zeros_like(silent.action_mask), turns=())
    made[7] = replace(made[7], segments=(silent,), end="truncated", bootstrap=False)
    assert made[7].action_tokens == 0
    return made


@pytest.mark.parametrize("cut", [0, 3, 5, 8])
def test_outcomes_are_means_over_all_ranks_of_what_did_not_fail(monkeypatch, cut):
    played = played_differently()
    measured = on_two_ranks(
        monkeypatch, lambda own: trajectory_metrics(own, 9), played[:cut], played[cut:]
    )
    well = [t for t in played if t.end != "failed"]
    assert measured == {
        "episodes": 7,
        "failed": 1,
        "tokens": sum(t.tokens for t in well),
        "segments": sum(len(t.segments) for t in well),
        "reward": pytest.approx(sum(t.total_reward for t in well) / 7),
        "success": pytest.approx(3 / 7),
        "first_try": pytest.approx(1 / 7),
        "truncated": pytest.approx(4 / 7),
        "truncated_not_bootstrapped": pytest.approx(1 / 4),
        "staleness_max": 9,
        "metric_legs": pytest.approx((0 + 1 + 2 + 3 + 4 + 6 + 7) / 7),
    }


def test_the_largest_staleness_is_that_of_the_oldest_token():
    old, new = (
        [trajectory(i, np.random.default_rng(i), version=version) for i in range(2)]
        for version in (4, 6)
    )
    assert trajectory_metrics([*new, *old], 7)["staleness_max"] == 3
    assert trajectory_metrics(new, 7)["staleness_max"] == 1
    assert trajectory_metrics(played_differently()[7:], 7)["staleness_max"] == 0, "no token"


def test_where_all_failed_there_are_no_means():
    measured = trajectory_metrics([mark_failed(t, "x") for t in trajectories(2)], 3)
    assert measured.pop("failed") == 2
    assert set(measured.values()) == {0}


@pytest.mark.parametrize("estimator", ["grpo", "rloo"])
def test_a_group_may_be_of_several_ranks(monkeypatch, estimator):
    played = trajectories(4)  # one group, of four returns
    ppo = config(estimator=estimator).ppo
    measured = on_two_ranks(
        monkeypatch, lambda own: group_metrics(own, ppo), played[:1], played[1:]
    )
    assert measured == {"groups_without_signal": 0.0}
    assert group_metrics(played[:1], config(estimator="gae").ppo) == {}


def test_each_rank_may_have_other_metrics(monkeypatch):
    metrics = ({"a": 1.0}, {"a": 3.0}, {"b": 5.0})
    played = [replace(t, metrics=m) for t, m in zip(trajectories(3), metrics, strict=True)]
    measured = on_two_ranks(monkeypatch, environment_metrics, played[:1], played[1:])
    assert measured == {"metric_a": 2.0, "metric_b": 5.0}
