"""Episodes of a run are accounted for by their ids."""

from __future__ import annotations

import pytest

from benchmarks.chaos.account import Account, account


def ids(update, *indices):
    return [f"ppo/{update:06d}/{index:06d}" for index in indices]


@pytest.mark.parametrize(
    ("failed", "trained", "expected"),
    [
        ([], [ids(1, 0, 1, 2), ids(2, 0, 1, 2)], Account(6, 0, 0, 0)),
        (ids(1, 1), [[*ids(1, 0, 2), *ids(2, 0)], ids(2, 1, 2)], Account(5, 0, 1, 0)),
        ([], [ids(1, 0, 1, 2), [*ids(1, 2), *ids(2, 0, 1)]], Account(6, 1, 0, 0)),
        ([], [ids(1, 0, 1, 2), ids(2, 0, 2)], Account(5, 0, 0, 1)),
        (ids(1, 2), [ids(1, 0, 1, 2), ids(3, 0, 1, 2)], Account(6, 0, 0, 3)),
        (ids(4, 0), [ids(1, 0, 2)], Account(2, 0, 1, 1)),
        (ids(1, 1) * 2, [ids(1, 0, 2)], Account(2, 0, 1, 0)),
        (ids(1, 2), [ids(1, 0, 1)], Account(2, 0, 1, 0)),
        ([], [], Account(0, 0, 0, 0)),
    ],
)
def test_each_episode_is_trained_once_dropped_or_missing(failed, trained, expected):
    assert account(failed, trained, 3) == expected
