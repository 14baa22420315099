"""What a soak makes of a run: every episode is accounted for, and time is useful or not."""

from __future__ import annotations

import pytest

from benchmarks.soak import Account, account, goodput


def ids(update, *indices):
    return [f"ppo/{update:06d}/{index:06d}" for index in indices]


def updates(*failed):
    return [{"failed": count} for count in failed]


@pytest.mark.parametrize(
    ("failed", "trained", "expected"),
    [
        ([0, 0], [ids(1, 0, 1, 2), ids(2, 0, 1, 2)], Account(6, 0, 0, 0)),
        ([1, 0], [[*ids(1, 0, 2), *ids(2, 0)], ids(2, 1, 2)], Account(5, 0, 1, 0)),
        ([0, 0], [ids(1, 0, 1, 2), [*ids(1, 2), *ids(2, 0, 1)]], Account(6, 1, 0, 0)),
        ([0, 0], [ids(1, 0, 1, 2), ids(2, 0, 2)], Account(5, 0, 0, 1)),
        ([1, 0], [ids(1, 0, 1, 2), ids(3, 0, 1, 2)], Account(6, 0, 1, 2)),
        ([], [], Account(0, 0, 0, 0)),
    ],
)
def test_each_episode_is_trained_once_dropped_or_missing(failed, trained, expected):
    assert account(updates(*failed), trained, 3) == expected


def test_goodput_is_the_share_of_time_that_updates_without_a_fault_would_take():
    steady = [float(second) for second in range(10, 60, 2)]
    assert goodput(steady, 10.0, 58.0) == 1.0
    assert goodput([*steady, 98.0, 100.0], 10.0, 100.0) == pytest.approx(26 * 2 / 90)
    assert goodput([12.0], 10.0, 60.0) == 0.0
