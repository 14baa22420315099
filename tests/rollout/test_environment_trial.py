"""A trial of an environment: how long its calls take, what hangs, what it offers and breaks."""

import asyncio
import time
from pathlib import Path

import pytest

from configs.load import load
from envs.base import EnvironmentFailure
from rollout.environment_trial import trial_limits, tried
from rollout.environments import ProcessLimits
from tests.rollout.test_environments import gone
from tests.support.environments import only_deadline
from tests.support.plugins import PLUGIN, TEACHER, TURNS

LIMITS = ProcessLimits(1, call_deadline_s=200.0)
SHORT = ProcessLimits(1, call_deadline_s=2.0)
GUESS = "examples.gymnasium_environment.guess:example/Guess-v0"


def on(env_id, work, limits=LIMITS, **settings):
    """What `work` makes of an environment in its process."""

    async def within():
        async with tried(env_id, settings, limits) as env:
            return await work(env)

    return asyncio.run(within())


def trial(episodes, max_turns, **settings):
    return on(PLUGIN, lambda env: env.play(episodes, max_turns), **settings)


def test_calls_are_timed():
    slow = trial(2, 9, kind="slow", seconds=0.2)
    assert (slow.episodes, slow.calls, slow.unended) == (2, 2 * (1 + TURNS), 0)
    assert slow.slowest_s > 0.2
    assert 0.04 < slow.mean_s < slow.slowest_s
    assert slow.make_s > 0.001, "a process starts"


def test_what_does_not_end_is_counted_and_what_fails_is_named():
    assert trial(2, 6, kind="endless").unended == 2
    with pytest.raises(EnvironmentFailure, match="seed 0: environment step: the reward is nan"):
        trial(2, 6, kind="nan")


def test_how_the_first_episodes_begin_and_what_they_take():
    async def work(env):
        before = await env.memory()
        steps = await env.first_steps(3)
        return steps, before, await env.memory()

    steps, before, after = on(PLUGIN, work)
    assert [(step.message, step.question) for step in steps] == [("5+5", str(i)) for i in range(3)]
    assert 2**20 < before <= after < 2**26
    assert 2**26 < on(PLUGIN, lambda env: env.memory(), kind="heavy") < 2**27


def test_what_it_offers_arrives_as_it_is():
    seen = on(TEACHER, lambda env: env.inspect(corpus=True, demonstrations=3, seed=5))
    assert seen.offered == {"expert", "demonstrations", "corpus", "baselines"}
    assert not seen.pictures
    assert seen.corpus == ["5+5", "10"]
    assert [one.seed for one in seen.demonstrations] == [5, 6, 7]
    assert [[image.shape for image in one.images] for one in seen.demonstrations] == [
        [],
        [(2, 4, 3)],
        [],
    ]
    assert (seen.demonstrations[1].images[0] == 1).all()
    assert seen.demonstrations[2].messages[1] == {
        "role": "assistant",
        "content": "7",
        "train": True,
    }
    nothing = on(PLUGIN, lambda env: env.inspect(corpus=True, demonstrations=3))
    assert (nothing.offered, nothing.corpus, nothing.demonstrations) == (frozenset(), [], [])


def test_baselines_are_played_where_the_environment_is():
    (floor,) = on(TEACHER, lambda env: env.floors(2, 5))
    assert (floor.baseline.name, floor.baseline.description) == ("ten", "says ten")
    assert (floor.episodes, floor.questions, floor.metrics["success"]) == (2, 2, 1.0)
    with pytest.raises(AssertionError, match="in the process of its environment"):
        floor.baseline.answer({"message": "5+5", "restart": 1})
    assert on(PLUGIN, lambda env: env.floors(2)) == []


@pytest.mark.parametrize("what", ["demonstrations", "corpus", "baselines"])
def test_what_it_offers_has_a_deadline_and_its_failure_a_name(what, monkeypatch):
    only_deadline(monkeypatch, what)

    async def work(env):
        if what == "baselines":
            return await env.floors(1)
        return await env.inspect(corpus=True, demonstrations=3)

    hangs = f"environment {what}: took longer than cluster.env_deadline_s = 2"
    with pytest.raises(EnvironmentFailure, match=hangs):
        on(TEACHER, work, SHORT, kind=f"stuck_{what}")
    with pytest.raises(EnvironmentFailure, match=f"environment {what}: LookupError: torn"):
        on(TEACHER, work, kind=f"broken_{what}")


def test_the_contract_is_held_where_the_environment_is_and_each_call_has_its_deadline(monkeypatch):
    def broken(env_id=PLUGIN, limits=SHORT, episodes=1, **settings):
        work = lambda env: env.broken_clause(episodes, processes=False)  # noqa: E731
        return on(env_id, work, limits, **settings)

    assert broken(GUESS, LIMITS, 2, largest=3) == ""
    assert broken(limits=LIMITS).startswith("seed 0: ")
    only_deadline(monkeypatch, "step")
    hangs = "environment step: took longer than cluster.env_deadline_s = 2"
    with pytest.raises(EnvironmentFailure, match=hangs):
        broken(kind="picky")


def test_episodes_are_the_same_in_a_process_with_another_hash_seed():
    work = lambda env: env.broken_clause(1)  # noqa: E731
    assert on(GUESS, work, largest=3) == ""


def test_a_close_that_hangs_is_named(monkeypatch):
    only_deadline(monkeypatch, "close")
    work = lambda env: env.broken_clause(1, processes=False)  # noqa: E731
    hangs = "environment close: took longer than cluster.env_deadline_s = 2"
    with pytest.raises(EnvironmentFailure, match=hangs):
        on(TEACHER, work, SHORT, kind="closing")


@pytest.mark.parametrize("kind", ["fork", "thread", "parent", "daemon"])
def test_what_it_started_ends_with_the_trial(kind):
    async def work(env):
        tried = await env.play(2, 6)
        children = Path(f"/proc/{env.env.process._pid}/task/{env.env.process._pid}/children")
        return tried, env.env.process._pid, children.read_text().split()

    begin = time.monotonic()
    found, process, children = on(PLUGIN, work, kind=kind)
    assert found.unended == 0
    assert found.calls == 2 * (1 + TURNS), "a fork's replies are not the environment's"
    assert time.monotonic() - begin < 300.0, "it sleeps for 600 s"
    assert gone([process, *map(int, children)])


def test_its_limits_are_the_runs():
    cfg = load("gp_l_debug", ["cluster.env_deadline_s=7", "env.memory_gib=2"])
    assert trial_limits(cfg) == ProcessLimits(1, 7.0, cfg.cluster.start_deadline_s, 2.0)
