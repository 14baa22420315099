"""The verifier of `fixed` and `paper_text`: rewards, their order, and who wins and loses."""

from __future__ import annotations

import ast
import re
from fractions import Fraction
from itertools import combinations_with_replacement, product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envs.general_points import solver
from envs.general_points.answers import Answer, read_json
from envs.general_points.env import GeneralPoints
from envs.general_points.formula import plain
from envs.general_points.verifier import VERDICTS, Hand, grade, recognised
from tests.support.effort import assert_turns

HAND = Hand(("A", "5", "10", "K"), (1, 5, 10, 10), (1, 5, 10, 10), 24)


def judge(formula, cards=None, vision=False, penalty_sum=False, partial_reward=False, hand=HAND):
    options = {"vision": vision, "penalty_sum": penalty_sum, "partial_reward": partial_reward}
    return grade(Answer(cards, formula), hand, **options)


NO_NUMBER = "your formula is illegal: no number on the other side of ="


@pytest.mark.parametrize(
    ("formula", "name", "reward", "reason"),
    [
        ("10+10+5-1", "solved", 5, ""),
        ("10 + 10 + 5 - 1 = 24", "solved", 5, ""),
        ("10+10+5-1=25", "wrong", -1, "your formula evaluates to 24, not 25"),
        ("10+10+5+1", "wrong", -1, "your formula evaluates to 26, not 24"),
        ("10/(5+10)*1", "wrong", -1, "your formula evaluates to 2/3, not 24"),
        ("5/(10-10)+1", "wrong", -1, "your formula divides by zero"),
        (
            "4*6",
            "foreign",
            -2,
            "you used numbers that the cards do not give: 4, 6 and you did not use: 1, 5, 10, 10",
        ),
        ("10+10+5-1-1", "foreign", -2, "you used numbers that the cards do not give: 1"),
        ("10+10+5", "unused", -2, "you did not use: 1"),
        ("(10+10+5-1", "illegal", -3, "your formula is illegal: unmatched parenthesis"),
        ("", "illegal", -3, "your formula is illegal: it is empty"),
        ("10+10+5-1=", "illegal", -3, NO_NUMBER),
        ("10+10+5-1=24=24", "illegal", -3, NO_NUMBER),
        ("10*10+y", "illegal", -3, "your formula is illegal: illegal characters"),
        (
            None,
            "illegal",
            -3,
            "your formula is illegal: the answer holds none in the asked-for format",
        ),
    ],
)
def test_first_failing_rule(formula, name, reward, reason):
    verdict = judge(formula)
    assert verdict[:3] == (name, reward, reason)
    assert verdict.legal == (name != "illegal")
    assert name in VERDICTS


@pytest.mark.parametrize(
    "formula",
    [
        "10+10+5-1=24.0",
        "24=10+10+5-1",
        "１０＋10＋5−1",
        "10+10+5-1 ＝ 24.00",
        "24.0=10+10+5−1",
        "（10 + 10）+（5 – 1）",
    ],
)
def test_documented_forms_are_graded_by_their_value(formula):
    assert judge(formula)[:3] == ("solved", 5, "")


@pytest.mark.parametrize(
    ("formula", "reason"),
    [
        ("10+10+5-1=24.5", "your formula evaluates to 24, not 24.5"),
        ("24.5=10+10+5-1", "your formula evaluates to 24, not 24.5"),
        ("10+10+5-1=24.000000001", "your formula evaluates to 24, not 24.000000001"),
        ("25=10+10+5-1", "your formula evaluates to 24, not 25"),
        ("10*10/5+1=24", "your formula evaluates to 21, not 24"),
    ],
)
def test_another_number_on_the_other_side_is_wrong(formula, reason):
    assert judge(formula)[:3] == ("wrong", -1, reason)


@pytest.mark.parametrize(
    ("numbers", "formula", "value"),
    [
        ((7, 7, 2, 1), "7*7/2*1", "49/2"),
        ((7, 7, 2, 1), "7*7/2/1=24", "49/2"),
        ((5, 10, 10, 3), "5-10-10*3", "-35"),
        ((1, 13, 12, 2), "(12*2*13-1)/13", None),
        ((1, 2, 3, 5), "5*5-3/2", None),
    ],
)
def test_a_value_near_the_target_is_not_the_target(numbers, formula, value):
    hand = Hand(tuple(map(str, numbers)), numbers, tuple(sorted(numbers)), 24)
    verdict = judge(formula, hand=hand)
    assert verdict.name != "solved"
    assert verdict.reward < 0
    assert value is None or verdict.reason == f"your formula evaluates to {value}, not 24"


def test_no_formula_wins_whose_value_is_rounded_to_the_target():
    """Every formula a op b op c op d of all hands to 10 with a value in (23, 25)."""
    near = 0
    for numbers in combinations_with_replacement(range(1, 11), 4):
        hand = Hand(tuple(map(str, numbers)), numbers, numbers, 24)
        for ops in product("+-*/", repeat=3):
            formula = "".join(f"{n}{op}" for n, op in zip(numbers, (*ops, ""), strict=True))
            value = reference(formula)
            if value is not None and 23 < value < 25 and value != 24:
                assert judge(formula, hand=hand)[:2] == ("wrong", -1)
                near += 1
    assert near > 50


def test_each_number_is_used_exactly_once():
    assert judge("10+10+5-1+1-1")[:2] == ("foreign", -2)
    assert judge("5*5-1").name == "foreign"
    assert judge("10+10+4")[:2] == ("foreign", -2)
    assert judge("(10+10+5-1)*1").name == "foreign"
    assert judge("101+0+5-1").name == "foreign"
    assert judge("10+105-1").name == "foreign"


def test_misreading_costs_one_and_a_half_more_and_only_in_vision():
    assert judge("10+10+5-1", ["A"], vision=False).reward == 5
    assert judge("10+10+5-1", list(HAND.names), vision=True)[:2] == ("solved", 5)
    assert judge("10+10+5-1", ["K", "A", "5", "10"], vision=True).reward == 5
    for cards in (["A", "5", "10", "J"], ["A", "5", "10", "K", "K"], [], None):
        verdict = judge("10+10+5-1", cards, vision=True)
        assert (verdict.name, verdict.reward, verdict.misread) == ("solved", 3.5, True)
    assert judge("10", ["A"], vision=True).reward == -3.5
    assert judge("10", ["A"], vision=True).reason.endswith("and you misread the cards")


def test_recognition_is_the_share_of_cards_read_right():
    assert recognised(["A", "5", "10", "J"], HAND) == 0.75
    assert recognised(["A", "A", "A", "A"], HAND) == 0.25
    assert recognised(["A", "5", "10", "K", "2", "3", "4", "6"], HAND) == 0.5
    assert recognised([], HAND) == 0.0
    assert recognised(None, HAND) is None


def test_penalties_add_up_when_asked():
    assert judge("(10+9", penalty_sum=False).reward == -3
    assert judge("(10+9", penalty_sum=True).reward == -5
    assert judge("(10+10+5-1", penalty_sum=True).reward == -3


def test_partial_reward_when_asked():
    assert judge("(10+10)+(5-1", partial_reward=True)[:2] == ("partial", 1)
    assert judge("(10+10)+(5-1", partial_reward=False).reward == -3
    assert judge("(10+10)+(5", partial_reward=True).reward == -3
    assert judge("10+10+5-1", partial_reward=True).reward == 5


@st.composite
def hands(draw):
    numbers = tuple(draw(st.lists(st.integers(1, 13), min_size=4, max_size=4)))
    key = tuple(sorted(numbers))
    assume(solver.solvable(key, 24))
    return Hand(tuple(map(str, numbers)), numbers, key, 24)


@settings(deadline=None, max_examples=60)
@given(hands())
def test_every_solution_gets_full_marks(hand):
    for node in solver.ranked(hand.key, 24):
        for order in (None, {n: i for i, n in enumerate(hand.numbers)}):
            assert judge(solver.text(node, order), hand=hand)[:2] == ("solved", 5)


PAIRS = [None, (0, 2), (1, 3), (2, 4), (0, 3), (1, 4)]


@settings(deadline=None)
@given(
    hands(),
    st.tuples(*[st.sampled_from("+-*/")] * 3),
    st.permutations(range(4)),
    st.sampled_from(PAIRS),
)
def test_a_formula_wins_exactly_when_its_value_is_the_target(hand, ops, order, pair):
    parts = [str(hand.numbers[i]) for i in order]
    if pair:
        parts[pair[0]] = "(" + parts[pair[0]]
        parts[pair[1] - 1] += ")"
    formula = parts[0] + "".join(op + part for op, part in zip(ops, parts[1:], strict=True))
    verdict = judge(formula, hand=hand)
    assert verdict.name in ("solved", "wrong")
    assert (verdict.name == "solved") == (reference(formula) == 24)


def reference(formula: str) -> Fraction | None:
    """The value by Python's own grammar, over Fractions; None where it divides by zero."""

    def value(node):
        if isinstance(node, ast.Constant):
            return Fraction(node.value)
        left, right = value(node.left), value(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            return left / right if right else None
        return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]

    return value(ast.parse(formula, mode="eval").body)


ENVIRONMENTS = [
    GeneralPoints(preset=preset, prompt_style=style)
    for preset in ("fixed", "paper_text", "paper_code")
    for style in ("brief", "full")
]


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="10+5-*/()=24 ", max_size=30) | st.text(max_size=80))
def test_any_text_gets_a_verdict_and_nothing_wins_by_chance(text):
    for env in ENVIRONMENTS:
        brief = env.settings.prompt_style == "brief"
        env.reset(seed=0)
        answer = text if brief else f'{{"cards": [], "formula": "{text}",}}'
        _, reward, terminated, _, info = env.step(answer)
        assert info["verdict"] in VERDICTS
        assert (reward == 5) == terminated == (info["verdict"] == "solved")
        if terminated:
            formula = text if brief else read_json(answer).formula
            sides = [side.strip() for side in plain(formula).split("=")]
            assert 24 in [reference(side) for side in sides]
            assert any(
                sorted(map(int, re.findall(r"\d+", side))) == list(env.hand.key) for side in sides
            )


def test_a_grade_takes_under_a_fifth_of_a_millisecond():
    text = "{\n  \"cards\": ['A', '5', '10', 'K'],\n  \"formula\": \"(10+10)*5-1/1=24\",\n}"
    hand = Hand(("A", "5", "10", "K", "A"), (1, 5, 10, 10, 1), (1, 1, 5, 10, 10), 24)

    def grade():
        for _ in range(1000):
            assert judge(read_json(text).formula, hand=hand).name == "wrong"

    assert_turns(grade, 1000 * 6_000)


OWN_REWARDS = {
    "solved": 11.0,
    "partial": 12.0,
    "wrong": 13.0,
    "misused": 14.0,
    "illegal": 15.0,
    "misread": 16.0,
    "exhausted": 17.0,
}


@pytest.mark.parametrize(
    ("formula", "keywords", "reward"),
    [
        ("10+10+5-1", {}, 11),
        ("(10+10)+(5-1", {"partial_reward": True}, 12),
        ("10+10+5+1", {}, 13),
        ("1*5/(10-10)", {}, 13),
        ("10+10+5-1=23", {}, 13),
        ("10+10+4", {}, 14),
        ("10+", {}, 15),
        (None, {}, 15),
        ("3+", {"penalty_sum": True}, 15 + 14),
        ("10+10+5-1", {"vision": True}, 11 + 16),
    ],
)
def test_every_reward_is_a_setting(formula, keywords, reward):
    options = {"vision": False, "penalty_sum": False, "partial_reward": False} | keywords
    assert grade(Answer(None, formula), HAND, **options, rewards=OWN_REWARDS).reward == reward


def test_an_environments_rewards_are_its_settings():
    env = GeneralPoints(prompt_style="brief", verify_iter=2, rewards=OWN_REWARDS)
    env.reset(seed=0)
    assert env.step("1+")[1] == 15.0
    assert env.step("1+")[1:4] == (15.0 + 17.0, False, True)
    env.reset(seed=0)
    assert env.step(env.expert())[1:3] == (11.0, True)


def test_a_wrong_answer_that_costs_nothing_still_gets_its_hint():
    """In the released code a reward of 0 says that rounding alone missed the target."""
    said = []
    for rewards in ({}, {"wrong": 0}):
        env = GeneralPoints(prompt_style="brief", feedback="prefix_hint", rewards=rewards)
        env.reset(seed=0)
        wrong = "+".join(str(number) for number in env.hand.numbers)
        shown, reward, *_, info = env.step(wrong)
        assert (info["verdict"], reward) == ("wrong", rewards.get("wrong", -1))
        said.append(shown["message"])
    assert said[0] == said[1]
