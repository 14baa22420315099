"""Training episodes: new seeds for each group, numbered through all updates."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from cluster.stream.training_episodes import training_groups, training_stream
from configs.seeds import update_seeds
from tests.support.learner import config


def test_every_update_plays_new_seeds_and_a_group_shares_one():
    cfg = config(episodes=6, group_size=3)
    begin = update_seeds(cfg, 1).start
    numbers, groups = zip(*islice(training_groups(cfg, 0), 4), strict=True)
    assert numbers == (0, 1, 2, 3)
    first = [*groups[0], *groups[1]]
    assert [(r.seed, r.group_id, r.sample_index) for r in first] == [
        (seed, seed, play) for seed in (begin, begin + 1) for play in range(3)
    ]
    assert [groups[i][0].seed for i in (2, 3)] == [begin + 2, begin + 3]
    assert [r.id for r in first] == [f"ppo/000001/{i:06d}" for i in range(6)]
    assert groups[2][0].id == "ppo/000002/000000"
    assert {(r.variant, r.temperature, r.sampling_seed, r.bootstrap) for r in first} == {
        ("rollout", 1.0, 7, False)
    }


def test_they_are_played_as_the_run_is_configured():
    cfg = config(episodes=6, trunc_bootstrap=True, temperature=0.5)
    _, group = next(training_groups(replace(cfg, seed=11), 0))
    assert [(r.temperature, r.sampling_seed, r.bootstrap) for r in group] == [(0.5, 11, True)]


def test_they_begin_where_they_are_told_to():
    cfg = config(episodes=6, group_size=3)
    everything = list(islice(training_groups(cfg, 0), 5))
    assert list(islice(training_groups(cfg, 3), 2)) == everything[3:]


@pytest.mark.parametrize(("rounds", "passed"), [(0, 0), (2, 4), (5, 16)])
def test_what_the_ledger_admits_for_an_update_and_those_after_it(rounds, passed):
    cfg = config(
        episodes=12, group_size=3, updates=9, max_staleness=2, dynamic_sampling=rounds, minibatch=4
    )
    stream = training_stream(cfg, 5, 17)
    assert next(stream.groups) == (17, next(training_groups(cfg, 17))[1])
    assert (stream.groups_per_update, stream.max_staleness) == (4, 2)
    assert (stream.first_update, stream.last_update, stream.most_passed) == (5, 9, passed)
