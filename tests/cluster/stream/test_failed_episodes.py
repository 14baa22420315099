"""How many episodes may fail: a share of many, one of few by chance, never all."""

from __future__ import annotations

import pytest

from cluster.failures import TooManyFailures
from cluster.stream.failed_episodes import check_failures
from tests.support.fake_worker import summary


@pytest.mark.parametrize(
    ("rate", "failed", "episodes", "words"),
    [
        (0.05, 0, 0, None),
        (0.05, 0, 12, None),
        (0.05, 2, 12, None),
        (0.05, 3, 12, "3 of 12 trajectories failed, more than cluster.max_failure_rate = 0.05 .*"),
        (1.0, 11, 12, None),
        (1.0, 12, 12, "all of 12 trajectories failed; "),
        (1.0, 13, 12, "13 of 12 trajectories failed.*"),
        (0.5, 1, 1, "all of 1 trajectories failed; "),
    ],
)
def test_more_than_is_likely_and_all_of_them_end_the_run(rate, failed, episodes, words):
    summaries = [summary(f"x/{i}", "failed") for i in range(failed)]
    if words is None:
        check_failures(rate, summaries, episodes)
        return
    with pytest.raises(TooManyFailures, match=f"^{words}the first, x/0: a card fell off$"):
        check_failures(rate, summaries, episodes)
