"""GeneralPoints as a game: deals, budgets, rewards, metrics, settings."""

from __future__ import annotations

import pytest

from envs.general_points.env import GeneralPoints


def play(env: GeneralPoints, *answers: str, seed: int = 0):
    env.reset(seed=seed)
    return [env.step(answer) for answer in answers]


@pytest.mark.parametrize("style", ["brief", "full"])
def test_expert_solves_at_the_first_answer(style):
    env = GeneralPoints(prompt_style=style)
    for seed in range(50):
        env.reset(seed=seed)
        _, reward, terminated, truncated, info = env.step(env.expert())
        assert (reward, terminated, truncated, info["verdict"]) == (5.0, True, False, "solved")
        assert info["metrics"]["success"] == info["metrics"]["first_try"] == 1.0


def test_exhaustion_adds_minus_one_to_the_last_graded_answer():
    last = play(GeneralPoints(prompt_style="brief", verify_iter=3), "x", "x", "x")
    assert [step[1] for step in last] == [-3.0, -3.0, -4.0]
    assert [step[3] for step in last] == [False, False, True]
    assert last[-1][4]["metrics"]["success"] == 0.0
