"""The deadline of an episode: seconds for which its process was awake."""

from __future__ import annotations

import asyncio

import pytest

from envs.registry import make
from rollout.episode import EpisodeLimits, EpisodeRequest, run_episode
from tests.rollout import test_episode
from tests.support import virtual_time
from tests.support.environments import InProcess

renderer = test_episode.renderer


@pytest.mark.parametrize(
    ("frozen", "works", "end"), [(600.0, 20.0, "terminated"), (0.0, 130.0, "failed")]
)
def test_a_frozen_machine_fails_no_episode(renderer, frozen, works, end):
    engine = test_episode.ScriptedEngine(renderer, [test_episode.gold()])
    answer = engine.generate

    async def generate(*prompt, **keywords):
        await asyncio.sleep(works / 2)
        virtual_time.freeze(frozen)
        await asyncio.sleep(works / 2)
        return await answer(*prompt, **keywords)

    engine.generate = generate
    request = EpisodeRequest(id="a", variant="v", seed=3, group_id=3)
    env = InProcess(make(test_episode.GP, {"prompt_style": "brief"}))
    played = virtual_time.run(
        run_episode(request, env, engine, renderer, EpisodeLimits(16, 128, 120.0))
    )
    assert played.end == end, played.failure
