"""Seeds of training and of evaluation: disjoint by update, and refused where they would meet."""

from __future__ import annotations

import numpy as np
import pytest

from configs.load import ConfigError, load
from configs.seeds import (
    demonstration_seeds,
    evaluation_seeds,
    intersect,
    ppo_seeds,
    update_seeds,
)


def run(*keys):
    return load("gp_l_debug", list(keys))


def test_updates_have_seeds_of_their_own_and_together_those_of_ppo():
    cfg = run("ppo.updates=3", "ppo.episodes=64", "ppo.group_size=4", "seed=2")
    updates = [update_seeds(cfg, update) for update in (1, 2, 3)]
    assert [len(seeds) for seeds in updates] == [16] * 3
    assert [*updates[0], *updates[1], *updates[2]] == list(ppo_seeds(cfg))
    assert ppo_seeds(cfg).start == 2_010_000_000
    assert not intersect(ppo_seeds(cfg), ppo_seeds(run("seed=3")))


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
        ("eval.seed=9223372036854775745", r"^eval\.seed=9223372036854775745: the last episode's"),
        ("ppo.updates=144115188075855872", r"^ppo\.updates=144115188075855872: .*below 9223372"),
    ],
)
def test_a_seed_that_its_reader_does_not_take_is_refused(key, words):
    with pytest.raises(ConfigError, match=words):
        run(key)


def test_the_largest_seeds_are_taken():
    run("seed=4294967295")
    run("eval.seed=9223372036854775744")  # and 64 episodes
    np.random.seed(4294967295)
    with pytest.raises(ValueError, match="between 0 and"):
        np.random.seed(4294967296)
