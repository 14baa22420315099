"""What the records say of trajectories, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from learner.trajectory_metrics import environment_metrics, group_metrics
from tests.support.learner import config, trajectories
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
