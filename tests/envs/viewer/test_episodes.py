"""What is recorded for a gallery: the expert's answers, and slips among them."""

from __future__ import annotations

import pytest

from envs.registry import make
from envs.viewer.episodes import (
    SLIP_EVERY,
    ExpertWithSlips,
    common_lines,
    new_lines,
    one_prompt_each,
    readable,
    record_episode,
)

GP, VIRL = "cardinal/GeneralPoints-v0", "cardinal/VIRL-v0"


def test_every_fourth_answer_is_a_slip_and_the_kinds_rotate():
    policy = ExpertWithSlips()
    given = [policy.answer(f"{number}*(2+{number})") for number in range(4 * SLIP_EVERY)]
    slips = [by for _, by in given if by != "expert"]
    assert slips == ["an earlier answer", "a changed sign", "cut short", "an earlier answer"]
    assert [by != "expert" for _, by in given] == [n % 4 == 3 for n in range(16)]
    assert given[3][0] == "2*(2+2)"
    assert given[7][0] == "7*(2-7)"
    assert given[11][0] == "11*("


def test_a_slip_never_is_the_experts_own_text():
    for right in ("7", "stop()", "turn_direction(north)", "a", "8/(3-8/3)", '{"formula": "1+2"}'):
        policy = ExpertWithSlips()
        for _ in range(24):
            text, by = policy.answer(right)
            assert (text == right) == (by == "expert")


@pytest.mark.parametrize("settings", [{}, {"modality": "vision", "image_size": 64}])
def test_an_episode_of_one_prompt(settings):
    env, policy = make(GP, settings), ExpertWithSlips()
    episodes = [record_episode(env, seed, policy) for seed in range(6)]
    assert one_prompt_each(episodes)
    assert {e.end for e in episodes} == {"terminated"}
    slipped = [e for e in episodes if len(e.prompts[0].answers) == 2]
    assert slipped
    for episode in slipped:
        wrong, right = episode.prompts[0].answers
        assert wrong.author != "expert"
        assert wrong.reward < 0
        assert wrong.message in wrong.next_message
        assert (right.author, right.verdict, right.reward) == ("expert", "solved", 5.0)
        assert episode.total == right.total == wrong.reward + 5
    assert (episodes[0].prompts[0].image is None) == (settings == {})
    assert episodes[0].facts["rule"] == "ten"
    assert episodes[0].overview is None


def test_an_episode_of_many_prompts_has_a_prompt_a_position():
    env = make(VIRL, {})
    episode = record_episode(env, 0, ExpertWithSlips())
    env.reset(seed=0)
    assert len(episode.prompts) == len(env.rail)
    assert not one_prompt_each([episode])
    assert all(prompt.answers[-1].verdict == "correct" for prompt in episode.prompts)
    assert episode.metrics["success"] == 1
    assert episode.overview.shape == (640, 640, 3)
    rewards = [answer.reward for prompt in episode.prompts for answer in prompt.answers]
    assert episode.total == sum(rewards)


def test_an_exhausted_budget_ends_an_episode_and_is_kept():
    env, policy = make(GP, {"verify_iter": 1}), ExpertWithSlips()
    episodes = [record_episode(env, seed, policy) for seed in range(4)]
    assert [e.end for e in episodes] == ["terminated"] * 3 + ["truncated"]
    assert episodes[3].metrics["success"] == 0


def test_what_is_new_in_a_prompt():
    env, policy = make(GP, {}), ExpertWithSlips()
    episodes = [record_episode(env, seed, policy) for seed in range(3)]
    known = common_lines(episodes)
    for episode in episodes:
        cards = episode.facts["cards"].split()
        assert new_lines(episode.prompts[0].text, known) == [f"Cards: {cards}"]
    assert new_lines("A_1: forward()\nA_2: \n\nrule: x", set()) == ["A_1: forward()", "rule: x"]


def test_answers_are_read_without_marks():
    assert readable('{\n  "cards": [\'A\'],\n  "formula": "1+2=24",\n}') == [
        "cards: ['A']",
        'formula: "1+2=24"',
    ]
    assert readable("forward()\n") == ["forward()"]
    assert readable(" {} \n") == []
