"""The verifier of `fixed` and `paper_text`: rewards, their order, and who wins and loses."""

from __future__ import annotations

import ast
import time
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from envs.general_points import solver
from envs.general_points.answers import Answer, read_json
from envs.general_points.env import GeneralPoints
from envs.general_points.verifier import VERDICTS, Hand, grade, recognised

HAND = Hand(("A", "5", "10", "K"), (1, 5, 10, 10), (1, 5, 10, 10), 24)


def judge(formula, cards=None, vision=False, penalty_sum=False, partial_reward=False, hand=HAND):
    options = {"vision": vision, "penalty_sum": penalty_sum, "partial_reward": partial_reward}
    return grade(Answer(cards, formula), hand, **options)


@pytest.mark.parametrize(
    ("formula", "name", "reward", "reason"),
    [
        ("10+10+5-1", "solved", 5, ""),
        ("10 + 10 + 5 - 1 = 24", "solved", 5, ""),
        ("10+10+5-1=25", "wrong", -1, "your formula evaluates to 24, not 25"),
        ("10+10+5+1", "wrong", -1, "your formula evaluates to 26, not 24"),
        ("10/(5+10)*1", "wrong", -1, "your formula evaluates to 2/3, not 24"),
        ("5/(10-10)+1", "wrong", -1, "your formula divides by zero"),
        ("4*6", "foreign", -2, "you used numbers that the cards do not give: 4, 6 and "
                               "you did not use: 1, 5, 10, 10"),
        ("10+10+5-1-1", "foreign", -2, "you used numbers that the cards do not give: 1"),
        ("10+10+5", "unused", -2, "you did not use: 1"),
        ("(10+10+5-1", "illegal", -3, "your formula is illegal: unmatched parenthesis"),
        ("", "illegal", -3, "your formula is illegal: it is empty"),
        ("10+10+5-1=", "illegal", -3, "your formula is illegal: no whole number after ="),
        ("10+10+5-1=24=24", "illegal", -3, "your formula is illegal: no whole number after ="),
        ("10*10+x", "illegal", -3, "your formula is illegal: illegal characters"),
        (None, "illegal", -3, "your formula is illegal: the answer holds none in the "
                              "asked-for format"),
    ],
)  # fmt: skip
def test_first_failing_rule(formula, name, reward, reason):
    verdict = judge(formula)
    assert verdict[:3] == (name, reward, reason)
    assert verdict.legal == (name != "illegal")
    assert name in VERDICTS


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
@given(hands(), st.tuples(*[st.sampled_from("+-*/")] * 3), st.permutations(range(4)),
       st.sampled_from(PAIRS))  # fmt: skip
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
            assert reference(formula.split("=")[0].strip()) == 24


def test_a_grade_takes_under_fifty_microseconds():
    text = "{\n  \"cards\": ['A', '5', '10', 'K'],\n  \"formula\": \"(10+10)*5-1/1=24\",\n}"
    hand = Hand(("A", "5", "10", "K", "A"), (1, 5, 10, 10, 1), (1, 1, 5, 10, 10), 24)
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        for _ in range(1000):
            verdict = judge(read_json(text).formula, hand=hand)
        best = min(best, (time.process_time() - begun) / 1000)
    assert verdict.name == "wrong"
    assert best < 50e-6
