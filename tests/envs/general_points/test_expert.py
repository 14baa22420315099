"""Demonstrations: right, reproducible, fast, in every kind; the vocabulary covers all of them."""

from __future__ import annotations

import re
from itertools import zip_longest

import numpy as np
import pytest

from envs.general_points import expert, solver
from envs.general_points.env import GeneralPoints
from envs.general_points.formula import parse
from envs.general_points.rules import MIXED
from envs.general_points.verifier import Hand
from tests.support.effort import assert_turns


def demonstrate(n: int = 50, seed: int = 0, **keywords):
    return list(GeneralPoints(**({"prompt_style": "brief"} | keywords)).demonstrations(n, seed))


def grade_all(demonstrations, **keywords) -> None:
    """The last answer of each demonstration solves the hand of its seed at the first try."""
    env = GeneralPoints(**({"prompt_style": "brief"} | keywords))
    for demonstration in demonstrations:
        observation, _ = env.reset(seed=demonstration.seed)
        assert demonstration.messages[0]["content"] == observation["message"]
        assert env.step(demonstration.messages[-1]["content"])[1:3] == (5.0, True)


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"prompt_style": "full"},
        {"formulas": "any"},
        {"formulas": "hand"},
        {"cot": True},
        {"face_rule": "ranks"},
        {"cot": True, "prompt_style": "full"},
        {"modality": "vision", "image_size": 64},
        {"trajectories": "suboptimal"},
        {"preset": "paper_code", "prompt_style": "full"},
        {"trajectories": "suboptimal", "cot": True},
        {"trajectories": "corrected"},
        {"num_cards": 5},
    ],
)
def test_demonstrations_solve_their_hands_and_repeat(keywords):
    demonstrations = demonstrate(**keywords)
    grade_all(demonstrations, **keywords)
    again = demonstrate(**keywords)
    assert [d.messages for d in again] == [d.messages for d in demonstrations]
    assert [d.messages for d in demonstrate(seed=1, **keywords)] != [d.messages for d in again]


def test_pictures_go_with_vision_demonstrations():
    for demonstration in demonstrate(3, modality="vision", image_size=64):
        assert [image.shape for image in demonstration.images] == [(64, 64, 3)]
    assert demonstrate(1)[0].images == ()


@pytest.mark.parametrize(
    ("trajectories", "wrong_ones"), [("suboptimal", {1, 2, 3}), ("corrected", {0, 1, 2, 3})]
)
def test_wrong_answers_come_first_with_the_verifiers_words(trajectories, wrong_ones):
    env = GeneralPoints(prompt_style="brief", trajectories=trajectories, verify_iter=4)
    numbers, words = set(), set()
    for demonstration in env.demonstrations(100, 0):
        env.reset(seed=demonstration.seed)
        messages = demonstration.messages
        for answer, feedback in zip(messages[1:-1:2], messages[2::2], strict=True):
            observation, reward, *_ = env.step(answer["content"])
            assert reward < 0
            assert feedback["content"] == observation["message"]
            assert answer["train"] == (trajectories == "suboptimal")
            assert not feedback["train"]
        assert env.step(messages[-1]["content"])[1] == 5.0
        assert [messages[0]["train"], messages[-1]["train"]] == [False, True]
        numbers.add(len(messages) // 2 - 1)
        words |= {m["content"] for m in messages[2::2]}
    assert numbers == wrong_ones
    assert {"wrong", "foreign", "illegal"} <= words


def corrections(n: int = 1000, **keywords) -> list[int]:
    """How many wrong answers each demonstration holds."""
    shown = demonstrate(n, trajectories="corrected", **keywords)
    return [len(demonstration.messages) // 2 - 1 for demonstration in shown]


def test_a_share_of_the_demonstrations_is_corrected():
    counts = np.bincount(corrections(corrected_share=0.3, verify_iter=4))
    assert (counts / 1000).tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1], abs=0.04)
    assert not any(corrections(100, corrected_share=0.0))
    assert min(corrections(100, corrected_share=1.0)) == 1


def test_nothing_is_corrected_where_one_answer_is_graded():
    assert not any(corrections(100, verify_iter=1))
    assert not any(corrections(100, verify_iter=1, corrected_share=1.0))
    assert all(len(demonstration.messages) == 2 for demonstration in demonstrate())


def test_wrong_answers_are_changed_ones_of_the_right_ones_style():
    keywords = {"trajectories": "corrected", "corrected_share": 1.0, "verify_iter": 2}
    for demonstration in demonstrate(100, formulas="hand", **keywords):
        _, wrong, _, right = (message["content"] for message in demonstration.messages)
        assert distance(tokens(right), tokens(wrong)) == 1


@pytest.mark.parametrize("style", ["canonical", "hand", "any"])
def test_a_wrong_formula_is_a_changed_one_of_the_style(style):
    """One card's number, one operator or a parenthesis from a right formula of that style."""
    hand = Hand(("2", "4", "6", "8"), (2, 4, 6, 8), (2, 4, 6, 8), 24)
    dealt = hand._replace(numbers=(6, 2, 8, 4))
    right = {expert.formula(dealt, style, choice) for choice in np.linspace(0, 0.999, 50)}
    rng = np.random.default_rng(0)
    near = set()
    for _ in range(200):
        wrong = tokens(expert.wrong_formula(dealt, rng, style))
        sources = [r for r in right if distance(tokens(r), wrong) == 1]
        assert sources, wrong
        near.update(sources if len(sources) == 1 else ())
    assert len(near) == len(right)


def tokens(formula: str) -> list[str]:
    return re.findall("[0-9]+|.", formula)


def distance(right: list[str], wrong: list[str]) -> int:
    """How many tokens differ; one more at the beginning is one."""
    if len(wrong) > len(right):
        right = ["", *right]
    return sum(a != b for a, b in zip_longest(right, wrong))


def test_diverse_prompts_state_every_rule_but_the_unseen_one():
    parts = [
        p for d in demonstrate(200, prompt_diversity=True) for p in d.messages[0]["content"].split()
    ]
    assert {part.partition("=")[2] for part in parts if "=" in part} == {"10", "5", "7", "12"}
    assert len(MIXED) == 4
    full = demonstrate(60, prompt_diversity=True, prompt_style="full")
    assert len({d.messages[0]["content"].splitlines()[1] for d in full}) >= 3


def test_thoughts_are_the_steps():
    assert expert.thought("(10-8)*3*4") == "10-8=2, 2*3=6, 6*4=24"
    assert expert.thought("8/(3-8/3)") == "8/3=(8/3), 3-(8/3)=(1/3), 8/(1/3)=24"
    assert expert.thought("5/(3-3)") == "3-3=0"
    assert expert.thought("(1") == ""


def test_formulas_are_one_or_many_for_a_hand():
    hand = Hand(("A", "5", "10", "K"), (1, 5, 10, 10), (1, 5, 10, 10), 24)
    assert expert.formula(hand) == "10+10+5-1"
    dealt = hand._replace(numbers=(5, 10, 1, 10))
    assert expert.formula(dealt) == "10+10+5-1"
    assert expert.formula(dealt, "hand") == "5+10+10-1"
    many = Hand(("2", "4", "6", "8"), (2, 4, 6, 8), (2, 4, 6, 8), 24)
    drawn = {expert.formula(many, "any", choice) for choice in np.linspace(0, 0.999, 50)}
    assert len(drawn) == len(solver.ranked(many.key, 24)) == 8
    assert all(sorted(parse(formula).numbers) == [2, 4, 6, 8] for formula in drawn)


@pytest.mark.parametrize("style", ["brief", "full"])
def test_the_corpus_holds_every_symbol_of_any_variant(style):
    symbols = set("".join(GeneralPoints(prompt_style=style, cot=True).corpus()))
    variants = [
        {"face_rule": "mixed"},
        {"face_rule": "ranks"},
        {"feedback": "none"},
        {"target": 30},
        {"feedback": "binary"},
        {"feedback": "prefix_hint"},
        {"preset": "paper_code"},
        {"modality": "vision", "image_size": 64},
        {"trajectories": "suboptimal"},
    ]
    rng = np.random.default_rng(0)
    for keywords in variants:
        env = GeneralPoints(prompt_style=style, **keywords)
        texts = [m["content"] for d in env.demonstrations(30, 0) for m in d.messages]
        for seed in range(30):
            env.reset(seed=seed)
            texts.append(
                env.step(expert.answer(env, expert.wrong_formula(env.hand, rng)))[0]["message"]
            )
            texts += [env.step("x")[0]["message"], env.expert()]
        assert set("".join(texts)) <= symbols, keywords


def test_a_demonstration_takes_a_fifth_of_a_millisecond():
    def all_of_them():
        assert len(demonstrate(10_000, hands="train")) == 10_000

    assert_turns(all_of_them, 10_000 * 6_000)
