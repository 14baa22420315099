"""The summaries of a block: packed and unpacked they are the same, and they are small."""

import pickle
from dataclasses import replace

import pytest

from rollout.trajectory import to_block
from rollout.trajectory_summary import from_columns, mean_metrics, summarize, to_columns
from tests.support.trajectories import mark_failed, segment, trajectory


def test_round_trip():
    played = [
        trajectory("ppo/000001/000001"),
        mark_failed(trajectory("ppo/000001/000002", metrics={}), "it broke"),
        trajectory(
            "ppo/000001/000003", metrics={"success": 0.5, "recognition": 0.25}, question="q"
        ),
    ]
    rows = [summarize(t) for t in played]
    assert from_columns(to_columns(rows)) == rows
    assert [row.id for row in rows] == [t.id for t in played]
    assert (rows[0].reward, rows[0].tokens, rows[0].action_tokens) == (-2.0, 16, 7)
    assert rows[1].failure == "it broke"
    assert rows[1].metrics == {}
    assert rows[0].oldest_version == 3
    assert [row.question for row in rows] == ["1 2 3 4 = 24", "1 2 3 4 = 24", "q"]


def test_they_are_under_a_hundredth_of_their_trajectories():
    """Trajectories of a thousand tokens, sixty-four a block."""
    long = (segment([(200, 260), (400, 470), (900, 960)], 1000),)
    metrics = {"success": 1.0, "first_try": 0.0, "legal_formula": 0.5}
    played = [trajectory(f"ppo/000001/{i:06d}", long, metrics=metrics) for i in range(64)]
    small = len(pickle.dumps(to_columns([summarize(t) for t in played])))
    assert small < 0.01 * to_block(played).nbytes
    assert small / 64 == pytest.approx(50, abs=25)


def plain(value) -> bool:
    """Whether Ray sends a value as msgpack, without pickle."""
    if type(value) in (list, dict):
        return all(map(plain, [*value, *value.values()] if type(value) is dict else value))
    return type(value) in (str, bytes, int, float, bool)


def test_they_need_no_pickle():
    failed = mark_failed(trajectory("ppo/000001/000002", metrics={}), "it broke")
    assert plain(to_columns([summarize(t) for t in (trajectory("ppo/000001/000001"), failed)]))


def test_a_metric_is_the_mean_of_the_episodes_that_have_it():
    metrics = [{"success": 1.0, "recognition": 0.5}, {"success": 0.0}, {"recognition": 1.0}]
    played = [replace(summarize(trajectory()), metrics=each) for each in metrics]
    assert mean_metrics(played) == {"success": 0.5, "recognition": 0.75}
    assert mean_metrics([]) == {}
