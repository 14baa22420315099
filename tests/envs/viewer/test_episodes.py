"""What is played for a gallery: the expert, slips now and then, all of it recorded."""

from __future__ import annotations

import pytest

from envs.registry import make
from envs.viewer.episodes import (
    SLIP_EVERY,
    Answers,
    common_lines,
    new_lines,
    one_trial_each,
    play_episode,
    readable,
)

GP, VIRL = "cardinal/GeneralPoints-v0", "cardinal/VIRL-v0"


def test_every_fourth_answer_is_a_slip_and_they_take_turns():
    answers = Answers()
    given = [answers.give(f"{number}*(2+{number})") for number in range(4 * SLIP_EVERY)]
    slips = [by for _, by in given if by != "expert"]
    assert slips == ["an earlier answer", "a changed sign", "cut short", "an earlier answer"]
    assert [by != "expert" for _, by in given] == [n % 4 == 3 for n in range(16)]
    assert given[3][0] == "2*(2+2)"
    assert given[7][0] == "7*(2-7)"
    assert given[11][0] == "11*("


def test_a_slip_never_is_the_experts_own_text():
    for right in ("7", "stop()", "turn_direction(north)", "a", "8/(3-8/3)", '{"formula": "1+2"}'):
        answers = Answers()
        for _ in range(24):
            text, by = answers.give(right)
            assert (text == right) == (by == "expert")


@pytest.mark.parametrize("settings", [{}, {"modality": "vision", "image_size": 64}])
def test_an_episode_of_one_prompt(settings):
    env, answers = make(GP, settings), Answers()
    episodes = [play_episode(env, seed, answers) for seed in range(6)]
    assert one_trial_each(episodes)
    assert {e.end for e in episodes} == {"terminated"}
    slipped = [e for e in episodes if len(e.trials[0].answers) == 2]
    assert slipped
    for episode in slipped:
        wrong, right = episode.trials[0].answers
        assert wrong.by != "expert"
        assert wrong.reward < 0
        assert wrong.said in wrong.heard
        assert (right.by, right.verdict, right.reward) == ("expert", "solved", 5.0)
        assert episode.total == right.total == wrong.reward + 5
    assert (episodes[0].trials[0].image is None) == (settings == {})
    assert episodes[0].facts["rule"] == "ten"
    assert episodes[0].overview is None


def test_an_episode_of_many_prompts_has_a_trial_a_position():
    env = make(VIRL, {})
    episode = play_episode(env, 0, Answers())
    env.reset(seed=0)
    assert len(episode.trials) == len(env.rail)
    assert not one_trial_each([episode])
    assert all(trial.answers[-1].verdict == "correct" for trial in episode.trials)
    assert episode.metrics["success"] == 1
    assert episode.overview.shape == (640, 640, 3)
    rewards = [answer.reward for trial in episode.trials for answer in trial.answers]
    assert episode.total == sum(rewards)


def test_an_exhausted_budget_ends_an_episode_and_is_kept():
    env, answers = make(GP, {"verify_iter": 1}), Answers()
    episodes = [play_episode(env, seed, answers) for seed in range(4)]
    assert [e.end for e in episodes] == ["terminated"] * 3 + ["truncated"]
    assert episodes[3].metrics["success"] == 0


def test_what_is_new_in_a_prompt():
    env, answers = make(GP, {}), Answers()
    episodes = [play_episode(env, seed, answers) for seed in range(3)]
    known = common_lines(episodes)
    for episode in episodes:
        cards = episode.facts["cards"].split()
        assert new_lines(episode.trials[0].prompt, known) == [f"Cards: {cards}"]
    assert new_lines("A_1: forward()\nA_2: \n\nrule: x", set()) == ["A_1: forward()", "rule: x"]


def test_answers_are_read_without_marks():
    assert readable('{\n  "cards": [\'A\'],\n  "formula": "1+2=24",\n}') == [
        "cards: ['A']",
        'formula: "1+2=24"',
    ]
    assert readable("forward()\n") == ["forward()"]
    assert readable(" {} \n") == []
