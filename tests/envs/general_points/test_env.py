"""GeneralPoints as a game: deals, budgets, rewards, metrics, speed."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from envs.base import EnvironmentFailure
from envs.general_points import env as env_module
from envs.general_points import rules, solver
from envs.general_points.env import GeneralPoints
from tests.support.effort import assert_turns

PRESETS = ("fixed", "paper_text", "paper_code")


def play(env: GeneralPoints, *answers: str, seed: int = 0) -> list[tuple]:
    """The steps of one episode: (observation, reward, terminated, truncated, info)."""
    env.reset(seed=seed)
    return [env.step(env.expert() if answer == "expert" else answer) for answer in answers]


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(env_module) == (0, 3)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("style", ["brief", "full"])
@pytest.mark.parametrize("modality", ["language", "vision"])
def test_expert_solves_at_the_first_answer(preset, style, modality):
    env = GeneralPoints(preset=preset, prompt_style=style, modality=modality, image_size=128)
    for seed in range(50):
        _, reward, terminated, truncated, info = play(env, "expert", seed=seed)[0]
        assert (reward, terminated, truncated, info["verdict"]) == (5.0, True, False, "solved")
        metrics = {"success": 1.0, "first_try": 1.0, "legal_formula": 1.0}
        if (style, modality) != ("brief", "language"):
            metrics["recognition"] = metrics["recognition_all"] = 1.0
        assert info["metrics"] == metrics


@pytest.mark.parametrize("preset", ["fixed", "paper_text"])
def test_n_answers_are_graded_and_the_last_bears_exhaustion(preset):
    steps = play(GeneralPoints(preset=preset, prompt_style="brief", verify_iter=3), "x", "x", "x")
    assert [step[1] for step in steps] == [-3.0, -3.0, -4.0]
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]
    assert steps[-1][4]["verdict"] == "illegal"
    assert steps[-1][4]["metrics"] == {"success": 0.0, "first_try": 0.0, "legal_formula": 0.0}


def test_paper_code_does_not_read_the_answer_after_the_last():
    env = GeneralPoints(preset="paper_code", prompt_style="brief", verify_iter=3)
    steps = play(env, "x", "x", "x", "expert")
    assert [step[1] for step in steps] == [-3.0, -3.0, -3.0, -1.0]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(False, True)]
    assert steps[-1][4]["verdict"] == "exhausted"
    assert steps[-1][4]["metrics"]["success"] == 0.0
    assert play(env, "x", "x", "expert")[-1][1:3] == (5.0, True)


def test_success_within_the_budget_is_not_success_at_first():
    steps = play(GeneralPoints(prompt_style="brief"), "1", "expert")
    metrics = steps[-1][4]["metrics"]
    assert (metrics["success"], metrics["first_try"]) == (1.0, 0.0)
    assert metrics["legal_formula"] == 1.0


def test_recognition_is_averaged_over_the_answers():
    env = GeneralPoints(modality="vision", image_size=64, prompt_style="brief", verify_iter=3)
    env.reset(seed=0)
    cards = " ".join(env.hand.names[:2])
    env.step(f"{cards}: 1")
    env.step("1")
    metrics = env.step(env.expert())[4]["metrics"]
    assert metrics["recognition"] == pytest.approx(0.5)
    assert metrics["recognition_all"] == pytest.approx(1 / 3)


def test_feedback_and_picture_of_later_turns():
    env = GeneralPoints(modality="vision", image_size=64, prompt_style="brief")
    first, _ = env.reset(seed=0)
    second = env.step("99")[0]
    assert (first["message"], first["restart"]) == ("J=10 Q=10 K=10", 1)
    assert (second["message"], second["restart"]) == ("foreign misread", 0)
    assert (first["image"] == second["image"]).all()


def test_stepping_without_an_episode_is_refused():
    env = GeneralPoints()
    with pytest.raises(ValueError, match="call reset"):
        env.step("1")
    env.reset(seed=0)
    env.step(env.expert())
    with pytest.raises(ValueError, match="call reset"):
        env.step("1")


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"face_rule": "ranks"},
        {"face_rule": "ranks", "fake_rule": "ten"},
        {"max_rank": 10},
        {"num_cards": 3},
        {"num_cards": 5, "target": 30},
        {"max_rank": 16},
        {"preset": "paper_code"},
        {"hands": "held_out"},
        {"require_face": True, "face_rule": "twelve"},
        {"require_face": True, "max_rank": 20},
    ],
)
def test_every_hand_is_solvable_under_the_scored_rule(keywords):
    env = GeneralPoints(prompt_style="brief", **keywords)
    scored = env.settings.fake_rule or env.settings.face_rule
    ranks = {rules.rank_name(rank): rank for rank in range(1, 21)}
    for seed in range(100):
        _, info = env.reset(seed=seed)
        dealt = [ranks[name] for name in info["cards"]]
        assert info["numbers"] == tuple(rules.value(rank, scored) for rank in dealt)
        assert max(dealt) <= env.settings.max_rank
        assert len(dealt) == env.settings.num_cards
        assert solver.solvable(tuple(sorted(info["numbers"])), env.settings.target)
        assert not env.settings.require_face or {11, 12, 13} & set(dealt)


def test_a_fake_rule_is_scored_while_the_prompt_states_another():
    env = GeneralPoints(prompt_style="brief", face_rule="ranks", fake_rule="ten", require_face=True)
    observation, info = env.reset(seed=0)
    assert any(f"={value}" in observation["message"] for value in (11, 12, 13))
    assert max(info["numbers"]) == 10
    assert env.step(env.expert())[1] == 5.0


def test_mixed_rules_are_drawn_and_stated():
    env = GeneralPoints(prompt_style="brief", face_rule="mixed", require_face=True)
    seen = {}
    for seed in range(100):
        observation, info = env.reset(seed=seed)
        stated = {part.partition("=")[2] for part in observation["message"].split() if "=" in part}
        seen.setdefault(info["rule"], set()).update(stated)
        assert env.step(env.expert())[1] == 5.0
    assert set(seen) == set(rules.MIXED)
    assert seen == {"ten": {"10"}, "five": {"5"}, "seven": {"7"}, "twelve": {"12"}}


def test_any_rule_counts_each_face_card_by_itself():
    env = GeneralPoints(prompt_style="brief", face_rule="any", require_face=True)
    stated = set()
    for seed in range(300):
        observation, info = env.reset(seed=seed)
        values = rules.face_values(info["rule"])
        for name, number in zip(info["cards"], info["numbers"], strict=True):
            if name in "JQK":
                assert number == values["JQK".index(name)]
                assert f"{name}={number}" in observation["message"].split()
                stated.add((name, number))
        assert env.step(env.expert())[1] == 5.0
    assert stated == {(name, number) for name in "JQK" for number in range(1, 14)}
    same = [env.reset(seed=5)[1] for _ in range(2)]
    assert same[0] == same[1]


def test_one_seed_is_one_hand_in_every_suit_and_modality():
    hands = set()
    for keywords in ({}, {"modality": "vision"}, {"modality": "vision", "suits": "red"}):
        env = GeneralPoints(image_size=64, prompt_style="brief", **keywords)
        hands.add(env.reset(seed=7)[1]["cards"])
    assert len(hands) == 1


def test_red_and_black_pictures_differ_in_colour_only_where_cards_are():
    def image(suits):
        env = GeneralPoints(modality="vision", image_size=128, suits=suits)
        return env.reset(seed=3)[0]["image"].astype(int)

    red, black = image("red"), image("black")
    assert (
        (red[..., 0] - red[..., 1] > 100).sum() > 100 > (black[..., 0] - black[..., 1] > 100).sum()
    )
    assert np.array_equal(red[:30], black[:30])


def test_a_target_that_nothing_reaches_is_a_failure_with_its_settings():
    env = GeneralPoints(max_rank=2, num_cards=2, target=24)
    with pytest.raises(EnvironmentFailure, match=r"no solvable hand.*max_rank=2"):
        env.reset(seed=0)


def test_ten_thousand_resets_solved_and_verified_take_a_second():
    env = GeneralPoints(prompt_style="brief", hands="train")

    def solve():
        for seed in range(10_000):
            env.reset(seed=seed)
            assert env.step(env.expert())[1] == 5.0

    def reset():
        for seed in range(10_000):
            env.reset(seed=seed)

    assert_turns(solve, 45e6)
    assert_turns(reset, 30e6)
