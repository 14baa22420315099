"""What is held out, what training can ask of an evaluation, and how questions are distinguished."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement, product

import numpy as np
import pytest

from envs.base import TextEnv
from envs.general_points import rules, solver
from envs.general_points.env import GeneralPoints
from envs.general_points.questions import all_questions, overlap, question, scored_rules
from envs.general_points.settings import Settings

FIXED_RULES = tuple(rules.FACE_VALUES)


def dealt(rule: str, hands: str, **settings) -> Counter[tuple[int, ...]]:
    """Numbers of every hand that the environment admits under a rule; counts hands of ranks."""
    env = GeneralPoints(prompt_style="brief", hands=hands, **settings)
    deck = range(1, env.settings.max_rank + 1)
    return Counter(
        tuple(sorted(rules.value(rank, rule) for rank in ranks))
        for ranks in combinations_with_replacement(deck, env.settings.num_cards)
        if env._admits(list(ranks)[::-1], rule)
    )


@pytest.mark.parametrize("rule", FIXED_RULES)
@pytest.mark.parametrize("require_face", [False, True])
@pytest.mark.parametrize(("num_cards", "max_rank"), [(3, 11), (3, 13), (3, 20), (4, 13), (5, 11)])
def test_a_look_up_table_of_all_training_hands_solves_no_held_out_one(
    rule, require_face, num_cards, max_rank
):
    deal = {
        "num_cards": num_cards,
        "max_rank": max_rank,
        "require_face": require_face,
        "face_rule": rule,
    }
    table = dealt(rule, "train", **deal)
    held_out = dealt(rule, "held_out", **deal)
    assert table
    assert held_out
    assert not table.keys() & held_out.keys()
    assert table + held_out == dealt(rule, "all", **deal)


def test_no_rule_leaks_into_another():
    table = set().union(*(dealt(rule, "train", num_cards=3) for rule in FIXED_RULES))
    for rule in FIXED_RULES:
        assert not table & dealt(rule, "held_out", num_cards=3).keys()


def test_rules_that_are_drawn_hold_out_what_the_drawn_rule_gives():
    drawn = ["-".join(map(str, faces)) for faces in product(range(1, 14), repeat=3)]
    table = set().union(*(dealt(rule, "train", num_cards=2) for rule in drawn[::7]))
    held_out = set().union(*(dealt(rule, "held_out", num_cards=2) for rule in drawn[::7]))
    assert table
    assert held_out
    assert not table & held_out


@pytest.mark.parametrize("face_rule", rules.RULES)
@pytest.mark.parametrize("deck", ["with", "without"])
def test_a_player_with_a_table_solves_no_held_out_episode(face_rule, deck):
    keywords = {"face_rule": face_rule, "prompt_style": "brief", "deck": deck}
    train = GeneralPoints(hands="train", **keywords)
    held_out = GeneralPoints(hands="held_out", **keywords)
    table = {}
    for seed in range(3000):
        train.reset(seed=seed)
        table[train.hand.key] = train.expert()
    for seed in range(500):
        held_out.reset(seed=seed)
        assert held_out.hand.key not in table


def test_a_fake_rule_holds_out_what_is_scored():
    keywords = {"face_rule": "ranks", "fake_rule": "ten", "prompt_style": "brief"}
    for hands in ("train", "held_out"):
        env = GeneralPoints(hands=hands, **keywords)
        for seed in range(200):
            info = env.reset(seed=seed)[1]
            ranks = {"A": 1, "J": 10, "Q": 10, "K": 10}
            scored = tuple(sorted(ranks.get(card) or int(card) for card in info["cards"]))
            assert (rules.hold_out_position(scored) < 0.2) == (hands == "held_out")


@pytest.mark.parametrize("rule", FIXED_RULES)
def test_a_fifth_of_questions_and_of_hands_is_held_out(rule):
    held_out, both = dealt(rule, "held_out", face_rule=rule), dealt(rule, "all", face_rule=rule)
    assert 0.19 < len(held_out) / len(both) < 0.22
    assert 0.14 < held_out.total() / both.total() < 0.26


def test_the_number_of_questions_is_that_of_the_documentation():
    sides = ("train", "held_out")
    counts = {
        rule: [len(all_questions(Settings(face_rule=rule, hands=side))) for side in sides]
        for rule in FIXED_RULES
    }
    assert counts == {
        "ten": [447, 119],
        "ranks": [1091, 271],
        "five": [447, 119],
        "seven": [447, 119],
        "twelve": [654, 162],
    }


@pytest.mark.parametrize("hands", ["train", "held_out"])
def test_by_ranks_one_hand_is_on_one_side_under_every_rule(hands):
    env = GeneralPoints(hands=hands, split="ranks", face_rule="ranks", prompt_style="brief")
    for ranks in combinations_with_replacement(range(1, 14), 4):
        held_out = rules.hold_out_position(ranks) < 0.2
        for rule in FIXED_RULES:
            numbers = tuple(sorted(rules.value(rank, rule) for rank in ranks))
            expected = held_out == (hands == "held_out") and solver.solvable(numbers, 24)
            assert env._admits(list(ranks), rule) == expected


def test_by_ranks_a_table_solves_most_held_out_hands():
    """The reason why the numbers part the hands: 68 % of the hands, 75 % of the deals."""
    table = dealt("ten", "train", split="ranks")
    held_out = dealt("ten", "held_out", split="ranks")
    solved = sum(count for numbers, count in held_out.items() if numbers in table)
    assert round(solved / held_out.total(), 2) == 0.68


def test_a_question_is_the_numbers_and_the_target():
    env = GeneralPoints(target=30)
    _, info = env.reset(seed=0)
    assert env.question == info["question"] == question(env.hand.key, 30)
    assert question((1, 5, 10, 10), 24) == "1 5 10 10 = 24"
    assert TextEnv.question == ""
    same = [GeneralPoints(face_rule=rule) for rule in ("ten", "ranks")]
    questions = [{e.reset(seed=seed)[1]["question"] for seed in range(300)} for e in same]
    assert any(q.endswith("10 11 = 24") for q in questions[1] - questions[0])


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, {"ten"}),
        ({"face_rule": "ranks", "fake_rule": "five"}, {"five"}),
        ({"face_rule": "mixed"}, {"ten", "five", "seven", "twelve"}),
        (
            {"face_rule": "ranks", "prompt_diversity": True},
            {"ranks", "ten", "five", "seven", "twelve"},
        ),
    ],
)
def test_scored_rules(keywords, expected):
    assert set(scored_rules(Settings(**keywords))) == expected


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"face_rule": "mixed", "hands": "train"},
        {"face_rule": "any", "num_cards": 3},
        {"face_rule": "any", "num_cards": 3, "hands": "held_out"},
        {"face_rule": "any", "num_cards": 3, "hands": "held_out", "split": "ranks"},
        {"face_rule": "ranks", "require_face": True, "num_cards": 3},
        {"preset": "paper_code", "num_cards": 3, "require_face": True},
        {"num_cards": 3, "max_rank": 20, "split": "ranks", "hands": "held_out"},
    ],
)
def test_every_question_that_is_dealt_is_among_all_questions(keywords):
    env = GeneralPoints(**keywords)
    asked = all_questions(env.settings)
    seen = set()
    for seed in range(2000):
        env.reset(seed=seed)
        seen.add(env.hand.key)
    assert seen <= asked
    assert len(seen) > 0.3 * len(asked)


def test_a_deck_of_one_colour_deals_a_rank_twice_at_most():
    black = {"modality": "vision", "suits": "black", "face_rule": "ranks"}
    both = {"face_rule": "ranks"}
    fewer = all_questions(Settings(**both)) - all_questions(Settings(**black))
    assert fewer
    assert all(max(Counter(numbers).values()) > 2 for numbers in fewer)
    assert all_questions(Settings(**black, deck="with")) == all_questions(Settings(**both))


TRAIN = {"hands": "train"}


@pytest.mark.parametrize(
    ("train", "evaluation", "expected"),
    [
        (TRAIN, {"hands": "held_out"}, "none"),
        (TRAIN, {"hands": "held_out", "face_rule": "ranks"}, "none"),
        (TRAIN, {"hands": "held_out", "face_rule": "any"}, "none"),
        ({"hands": "train", "face_rule": "any"}, {"hands": "held_out"}, "none"),
        (TRAIN, {"hands": "held_out", "hold_out": 0.3}, "some"),
        (TRAIN, {"hands": "held_out", "hold_out": 0.1}, "none"),
        (TRAIN, {"hands": "train"}, "all"),
        (TRAIN, {}, "some"),
        ({}, {"hands": "held_out"}, "all"),
        ({}, {"face_rule": "ranks"}, "some"),
        ({}, {"face_rule": "ranks", "require_face": True}, "none"),
        ({}, {"face_rule": "twelve", "require_face": True}, "none"),
        ({}, {"face_rule": "five", "require_face": True}, "all"),
        ({}, {"face_rule": "ranks", "fake_rule": "ten"}, "all"),
        ({"prompt_diversity": True}, {"face_rule": "twelve"}, "all"),
        ({"face_rule": "any"}, {"face_rule": "ranks"}, "all"),
        ({}, {"target": 25}, "none"),
        ({}, {"num_cards": 5}, "none"),
        ({}, {"modality": "vision", "suits": "red"}, "all"),
        ({"num_cards": 5}, {"num_cards": 5, "max_rank": 10}, "all"),
        ({"hands": "train", "split": "ranks"}, {"hands": "held_out", "split": "ranks"}, "some"),
        (
            {"hands": "train", "split": "ranks", "face_rule": "ranks"},
            {"hands": "held_out", "split": "ranks", "face_rule": "ranks"},
            "none",
        ),
    ],
)
def test_what_training_can_ask_of_an_evaluation(train, evaluation, expected):
    assert GeneralPoints.overlap(train, evaluation) == expected


def test_overlap_agrees_with_what_is_dealt():
    train, evaluation = Settings(hands="train"), Settings(face_rule="seven", num_cards=4)
    asked = all_questions(train)
    env = GeneralPoints(face_rule="seven")
    shares = [env.reset(seed=seed) and env.hand.key in asked for seed in range(300)]
    assert overlap(train, evaluation) == "some"
    assert 0.5 < np.mean(shares) < 0.95


def test_an_environment_that_does_not_say_is_unknown():
    assert TextEnv.overlap({}, {}) == "unknown"


def test_a_rank_is_dealt_as_often_as_the_deck_has_it():
    fives = {"num_cards": 5, "max_rank": 3, "target": 5}
    assert (1, 1, 1, 1, 1) in all_questions(Settings(**fives, deck="with"))
    assert (1, 1, 1, 1, 1) not in all_questions(Settings(**fives, deck="without"))


def test_any_rule_counts_to_thirteen_whatever_the_deck():
    asked = all_questions(Settings(face_rule="any", max_rank=11, num_cards=3))
    assert {number for numbers in asked for number in numbers} == set(range(1, 14))
