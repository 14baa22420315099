"""A trial of an environment: how long its calls take, what does not end, the first failure."""

import asyncio

import pytest

from envs.base import EnvironmentFailure
from rollout.environment_trial import first_steps, trial
from rollout.environments import ProcessLimits
from tests.support.plugins import PLUGIN, TURNS


def tried(episodes, max_turns, **settings):
    limits = ProcessLimits(1, call_deadline_s=20.0)
    return asyncio.run(trial(PLUGIN, settings, episodes, max_turns, limits))


def test_calls_are_timed():
    slow = tried(2, 9, kind="slow", seconds=0.2)
    assert (slow.episodes, slow.calls, slow.unended) == (2, 2 * (1 + TURNS), 0)
    assert slow.slowest_s > 0.2
    assert 0.04 < slow.mean_s < slow.slowest_s
    assert slow.make_s > slow.slowest_s / 1000


def test_what_does_not_end_is_counted_and_what_fails_is_named():
    assert tried(2, 6, kind="endless").unended == 2
    with pytest.raises(EnvironmentFailure, match="seed 0: environment step: the reward is nan"):
        tried(2, 6, kind="nan")


def test_how_the_first_episodes_begin():
    steps = asyncio.run(first_steps(PLUGIN, {}, 3, ProcessLimits(1, call_deadline_s=20.0)))
    assert [(step.message, step.question) for step in steps] == [("5+5", str(i)) for i in range(3)]
