"""Seeds of training and of evaluation: disjoint by update, and refused where they would meet."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.contradictions import contradictions
from configs.load import ConfigError, load
from configs.seeds import (
    SEEDS,
    demonstration_seeds,
    evaluation_seeds,
    intersect,
    ppo_seeds,
    update_seeds,
)


def run(*keys):
    return load("gp_l_debug", list(keys))


DEBUG = run()


def test_updates_have_seeds_of_their_own_and_together_those_of_ppo():
    cfg = run("ppo.updates=3", "ppo.episodes=64", "ppo.group_size=4", "seed=2")
    updates = [update_seeds(cfg, update) for update in (1, 2, 3)]
    assert [len(seeds) for seeds in updates] == [16] * 3
    assert [*updates[0], *updates[1], *updates[2]] == list(ppo_seeds(cfg))
    assert not intersect(ppo_seeds(cfg), ppo_seeds(run("seed=3")))


@pytest.mark.parametrize(("rounds", "groups"), [(0, 48), (3, 144)])
def test_groups_played_for_those_without_signal_have_seeds_too(rounds, groups):
    cfg = run("ppo.updates=3", "ppo.episodes=64", "ppo.group_size=4", "ppo.estimator=grpo")
    cfg = replace(cfg, ppo=replace(cfg.ppo, dynamic_sampling=rounds))
    assert len(ppo_seeds(cfg)) == groups
    assert ppo_seeds(cfg).start == update_seeds(cfg, 1).start


@pytest.mark.parametrize("seed", range(5))
def test_runs_of_the_first_seeds_begin_at_round_numbers(seed):
    assert ppo_seeds(run(f"seed={seed}")).start == seed * 1_000_000_000 + 10_000_000


def test_the_first_runs_share_no_episode_of_training():
    """Of as many as a study has, however long; of more, as long as one is."""
    cfg = run("ppo.episodes=1000", "ppo.group_size=1")
    for runs, millions in ((17, 230), (72, 55), (305, 13), (1292, 3)):
        starts = sorted(ppo_seeds(replace(cfg, seed=seed)).start for seed in range(runs))
        gaps = [above - below for below, above in pairwise(starts)]
        assert min(gaps) >= millions * 1_000_000


@given(
    seed=st.integers(0, SEEDS - 1),
    first=st.integers(0, SEEDS),
    episodes=st.integers(1, 100_000),
    updates=st.integers(1, 3_000),
)
def test_a_configuration_is_refused_or_all_its_seeds_are_apart_and_fit(
    seed, first, episodes, updates
):
    """Whatever numpy's and the environments' generators are given, none refuses it."""
    cfg = replace(
        DEBUG,
        seed=seed,
        eval=replace(DEBUG.eval, seed=first),
        ppo=replace(DEBUG.ppo, episodes=episodes, updates=updates, minibatch=1),
    )
    training = ppo_seeds(cfg)
    assert training == range(update_seeds(cfg, 1).start, update_seeds(cfg, updates).stop)
    assert len(training) == episodes * updates
    assert training.start >= 10_000_000
    if contradictions(cfg):
        return
    for seeds in (training, evaluation_seeds(cfg), demonstration_seeds(cfg)):
        np.random.seed(seeds[0])
        np.random.seed(seeds[-1])
    assert not intersect(training, evaluation_seeds(cfg))


@given(st.integers(0, SEEDS - 1))
def test_no_seed_of_a_run_leaves_too_little_room_to_train(seed):
    """40 million episodes of PPO are more than any run has."""
    ppo = replace(DEBUG.ppo, episodes=40_000, updates=1_000)
    assert ppo_seeds(replace(DEBUG, seed=seed, ppo=ppo)).stop <= SEEDS


def test_what_does_not_train_has_no_seeds():
    assert not ppo_seeds(run("ppo.updates=0"))
    assert not demonstration_seeds(run("sft.steps=0"))
    assert not demonstration_seeds(run("sft.data=/somebody/s.json"))
    assert demonstration_seeds(run("seed=5", "sft.demonstrations=100")) == range(5, 105)


@pytest.mark.parametrize("sampled", [8, 80])
def test_an_evaluation_takes_the_seeds_of_its_episodes(sampled):
    keys = ("eval.seed=7", "seed=8000", "eval.episodes=64", f"eval.sampled_questions={sampled}")
    assert evaluation_seeds(run(*keys)) == range(7, 71)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (range(3), range(3, 5), False),
        (range(4), range(3, 5), True),
        (range(3, 5), range(9), True),
        (range(0), range(9), False),
        (range(9), range(4, 4), False),
    ],
)
def test_ranges_intersect(one, other, expected):
    assert intersect(one, other) is intersect(other, one) is expected


@pytest.mark.parametrize(
    ("keys", "phase"),
    [
        (["eval.seed=9999990"], "ppo trains on 10000000"),
        (["eval.seed=100"], "sft trains on 0 to 1023"),
        (["seed=1000000"], "sft trains on 1000000"),
    ],
)
def test_evaluation_on_trained_seeds_is_refused(keys, phase):
    with pytest.raises(ConfigError, match=rf"eval\.seed=.*{phase}.*must not meet"):
        run(*keys)


def test_nothing_to_sample_is_refused():
    with pytest.raises(ConfigError, match=r"eval\.temperature=0 has nothing to sample"):
        run("eval.temperature=0")
    assert run("eval.temperature=0", "eval.sampled_questions=0").eval.temperature == 0


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("seed=4294967296", r"^seed=4294967296: must be below 4294967296 \(2\^32\), as the engine"),
        ("eval.seed=4294967233", r"^eval\.seed=4294967233: the last episode's seed would be 42949"),
        (
            "ppo.updates=200000000",
            r"^ppo\.updates=200000000: .*below 4294967296 \(2\^32\), as the ",
        ),
        ("seed=4294967295", r"^sft\.demonstrations=1024: the last episode's seed would be 42949"),
    ],
)
def test_a_seed_that_its_reader_does_not_take_is_refused(key, words):
    with pytest.raises(ConfigError, match=words):
        run(key)


def test_the_largest_seeds_are_taken():
    run("seed=4294967295", "sft.steps=0")
    run("seed=4294966272")  # and 1024 demonstrations
    run("eval.seed=4294967232")  # and 64 episodes
    np.random.seed(4294967295)
    with pytest.raises(ValueError, match="between 0 and"):
        np.random.seed(4294967296)
