"""A clock that stands still while its process does."""

from cluster.awake import AWAY_S, Awake


def test_time_between_looks_counts_up_to_what_one_takes_that_was_not_stopped():
    now = [100.0]
    awake = Awake(lambda: now[0])
    assert awake() == 0.0
    for elapsed, expected in ((0.5, 0.5), (AWAY_S, 2.5), (60.0, 4.5), (0.0, 4.5), (1.0, 5.5)):
        now[0] += elapsed
        assert awake() == expected
