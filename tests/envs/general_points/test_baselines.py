"""GeneralPoints' baselines: at random, by heart from training hands, no answer."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from envs.baselines import floors, play
from envs.general_points import baselines
from envs.general_points.baselines import random_formula, random_hand, study, training
from envs.general_points.env import GeneralPoints
from envs.general_points.formula import parse
from envs.general_points.settings import Settings


@pytest.fixture(autouse=True)
def _short_studies(monkeypatch):
    monkeypatch.setattr(baselines, "STUDIED", 2000)


def by_name(env, episodes=40, trained=()):
    return {row.baseline.name: row.metrics for row in floors(env, episodes, 0, trained)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt_style": "brief"},
        {"prompt_style": "brief", "cot": True},
        {"modality": "vision", "image_size": 64, "prompt_style": "brief"},
    ],
)
def test_what_is_learned_by_heart_solves_exactly_what_training_asked(settings) -> None:
    env = GeneralPoints(**settings, verify_iter=1)
    (learned,) = training(env.settings, [])
    known = study([GeneralPoints(**vars(learned))])
    look_up = next(b for b in env.baselines(0) if b.name == "look-up")
    solved = []
    for seed in range(60):
        env.reset(seed=seed)
        solved.append(play(env, look_up, seed)["first_try"])
        assert solved[-1] == float(env.hand.key in known)
    assert 0 < sum(solved) < 60
    assert by_name(GeneralPoints(**settings, hands="train"), 20)["look-up"]["success"] > 0.8


def test_no_answer_and_no_look_at_the_cards_solve_next_to_nothing() -> None:
    env = GeneralPoints(modality="vision", image_size=64, prompt_style="brief", verify_iter=1)
    figures = by_name(env)
    assert figures["no answer"]["success"] == figures["no answer"]["recognition"] == 0.0
    for name in ("random", "blind"):
        assert figures[name]["success"] <= 0.05
        assert 0.05 < figures[name]["recognition"] < 0.5
        assert figures[name]["recognition_all"] <= 0.05
    assert figures["look-up"]["recognition"] == 1.0
    names = GeneralPoints().baselines(0)
    assert [b.description for b in names][1] == "a formula of the cards at random"


def test_a_rule_that_was_not_trained_is_not_known_by_heart() -> None:
    env = GeneralPoints(
        prompt_style="brief", face_rule="ranks", require_face=True, hands="train", verify_iter=1
    )
    ten, ranks = ({"face_rule": rule, "hands": "train"} for rule in ("ten", "ranks"))
    assert by_name(env, trained=[ten])["look-up"]["success"] == 0.0
    for trained in ([ranks], [ten, ranks], []):
        assert by_name(env, trained=trained)["look-up"]["success"] > 0.8


def test_the_hands_learned_are_those_of_training() -> None:
    played = Settings(
        modality="vision", suits="red", face_rule="ranks", require_face=True, hands="held_out"
    )
    own = replace(played, modality="language", suits="mixed", hands="train")
    assert training(played, []) == [own]
    ranks = Settings(face_rule="ranks")
    assert training(played, [ranks, Settings(), ranks]) == [ranks, Settings()]
    assert training(Settings(), [replace(played, hands="all")]) == [replace(own, hands="all")]
    drawn = Settings(prompt_diversity=True)
    assert training(Settings(), [drawn]) == [drawn, replace(drawn, face_rule="mixed")]


def test_where_the_split_leaves_nothing_to_train_on_nothing_is_known() -> None:
    env = GeneralPoints(prompt_style="brief", hands="held_out", hold_out=1, verify_iter=1)
    figures = by_name(env)
    assert figures["look-up"]["success"] == figures["blind"]["success"] == 0.0
    trained = [{"hands": "held_out", "hold_out": 1}]
    assert by_name(env, trained=trained)["look-up"]["success"] > 0.8


def test_random_formulas_use_each_number_once_in_any_order_and_shape() -> None:
    rng = np.random.default_rng(0)
    texts = {random_formula((1, 5, 10, 13), rng) for _ in range(300)}
    assert len(texts) > 250
    for text in texts:
        assert Counter(parse(text).numbers) == Counter((1, 5, 10, 13))
    used = "".join(texts)
    assert all(operator in used for operator in "+-*/")
    assert any(text.count("(") == 2 for text in texts)


def test_random_hands_are_of_the_deck() -> None:
    rng = np.random.default_rng(0)
    settings = Settings(num_cards=3, face_rule="five", target=20)
    hands = [random_hand(settings, rng) for _ in range(300)]
    assert {name for hand in hands for name in hand.names} == set("A23456789JQK") | {"10"}
    assert all(len(hand.names) == 3 and hand.target == 20 for hand in hands)
    king = next(hand for hand in hands if "K" in hand.names)
    assert king.numbers[king.names.index("K")] == 5
    assert king.key == tuple(sorted(king.numbers))


def test_a_seed_draws_the_same_answers() -> None:
    env = GeneralPoints(prompt_style="brief")
    shown, _ = env.reset(seed=0)

    def said(seed):
        return [b.answer(shown) for b in env.baselines(seed) if b.name in ("random", "blind")]

    assert said(1) == said(1) != said(2)
