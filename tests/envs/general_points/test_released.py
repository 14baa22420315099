"""Each oddity of the released verifier, and what `fixed` does instead."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from itertools import chain, combinations_with_replacement, permutations, product, zip_longest
from pathlib import Path

import pytest

from envs.general_points import solver
from envs.general_points.answers import Answer
from envs.general_points.env import GeneralPoints
from envs.general_points.formula import evaluate, parse
from envs.general_points.released import (
    float_value,
    grade_released,
    longest_prefix,
    solution_strings,
)
from envs.general_points.verifier import Hand, grade

HAND = Hand(("A", "5", "10", "K"), (1, 5, 10, 10), (1, 5, 10, 10), 24)
EIGHTS = Hand(("3", "3", "8", "8"), (3, 3, 8, 8), (3, 3, 8, 8), 24)


def released(formula, hand=HAND, cards=None, **options):
    options = {"vision": False, "penalty_sum": True, "partial_reward": True} | options
    verdict = grade_released(formula, cards, hand.names, hand.numbers, hand.target, **options)
    return verdict[:3]


def playing(preset: str, hand: Hand, **settings) -> GeneralPoints:
    """An environment in which this hand is drawn."""
    env = GeneralPoints(preset=preset, prompt_style="brief", **settings)
    env.reset(seed=0)
    env.hand = hand
    return env


def fixed(formula, hand=HAND):
    return playing("fixed", hand).step(formula)[1]


def test_a_solution_earns_five():
    assert released("10+10+5-1") == ("solved", 5, ["Correct solution"])


def test_penalties_of_misplaced_tokens_and_of_numbers_add_up():
    assert released("10++10")[1] == -3 - 2
    assert released("10++10**7")[1] == -3 - 3 - 2 - 2
    assert released("10++10**7", penalty_sum=False)[1] == -3
    assert fixed("10++10**7") == -3


def test_wrong_numbers_cost_twice_when_others_are_left_over():
    name, reward, messages = released("4*6")
    assert (name, reward) == ("foreign", -4)
    assert messages == ["you used invalid numbers: [4, 6]", "you didn't use numbers: [1, 5, 10]"]
    assert released("10+10+5-1-1")[1] == -2
    assert released("10+10")[:2] == ("unused", -2)
    assert fixed("4*6") == -2


def test_five_unfinished_prefixes_equal_one_solution():
    assert released("(10+10)+(5-1") == ("partial", 1, ["partial solution"])
    env = playing("paper_code", HAND)
    assert sum(env.step("(10+10)+(5-1")[1] for _ in range(5)) == 5
    assert fixed("(10+10)+(5-1") == -3
    assert released("(10+10)+(5-1", partial_reward=False)[1] == -1


def test_rounding_makes_the_only_solution_of_3_3_8_8_worth_nothing():
    assert 8 / (3 - 8 / 3) != 24
    assert released("8/(3-8/3)", EIGHTS) == ("wrong", 0, [])
    assert fixed("8/(3-8/3)", EIGHTS) == 5


def test_leading_zeros_are_a_number_of_the_cards_and_no_formula():
    assert released("010+10+5-1")[:2] == ("wrong", -1)
    assert released("0" * 70 + "10+10+5-1")[:2] == ("wrong", -1)
    assert released("0" * 70 + "7+10+5-1")[1] == -4


def test_whitespace_is_illegal():
    assert released("10 + 10 + 5 - 1") == ("illegal", -3, ["illegal characters"])
    assert fixed("10 + 10 + 5 - 1") == 5


def test_an_unclosed_parenthesis_or_a_trailing_operator_is_not_illegal():
    assert released("(10+10+5+1")[1] == -1
    assert released("10+10+5+1+")[1] == -1
    assert fixed("(10+10+5+1") == fixed("10+10+5+1+") == -3


def test_an_unmatched_closing_parenthesis_is():
    assert released("10+10+5-1)") == ("illegal", -3, ["unmatched closing parenthesis"])


def test_the_right_side_of_the_equation_is_not_read():
    env = GeneralPoints(preset="paper_code")
    env.reset(seed=0)
    assert env.step(env.expert().replace("=24", "=7"))[1] == 5
    env = GeneralPoints(preset="fixed")
    env.reset(seed=0)
    assert env.step(env.expert().replace("=24", "=7"))[1] == -1


def test_misread_cards_replace_every_other_grade():
    env = playing("paper_code", HAND, modality="vision", image_size=128)
    for answer in ("A 5 10 J: 10+10+5-1", "A 5 10 J: nonsense", "10+10+5-1"):
        env = playing("paper_code", HAND, modality="vision", image_size=128)
        _, reward, terminated, _, info = env.step(answer)
        assert (reward, terminated, info["verdict"]) == (-1.5, False, "misread")
    env = playing("fixed", HAND, modality="vision", image_size=128)
    assert env.step("A 5 10 J: nonsense")[1] == -4.5
    env = playing("fixed", HAND, modality="vision", image_size=128)
    assert env.step("A 5 10 J: 10+10+5-1")[1:3] == (3.5, True)


def test_the_message_names_the_longest_prefix_of_any_solution():
    assert released("10+10+5*1")[2] == [
        "10+10+5 is partially correct but the full formula does not match any solution"
    ]
    assert released("1/5/10/10")[2][0].startswith("1 is partially correct")
    assert released("8/3/3/8", EIGHTS)[2][0].startswith("8/ is partially correct")
    assert released("3/8/3/8", EIGHTS)[2] == ["your formula does not match any solution"]


@pytest.mark.parametrize(
    "formula",
    [
        "10/(10-10)+5",
        "()",
        "(",
        "+",
        "",
        "None",
        "1" * 9_999,
        "(" * 500 + "1",
        "08+2",
        "10(5)",
        "5)(1",
    ],
)
def test_any_formula_gets_a_grade(formula):
    name, reward, messages = released(formula)
    assert name != "solved"
    assert reward < 0
    assert messages


def test_every_solution_of_every_hand_in_every_preset_that_should():
    """All 1,362 hands: `fixed` always gives 5; the released code unless floats miss 24."""
    missed = 0
    for key in combinations_with_replacement(range(1, 14), 4):
        hand = Hand(tuple(map(str, key)), key, key, 24)
        for node in solver.ranked(key, 24) if solver.solvable(key, 24) else ():
            formula = solver.text(node)
            judged = grade(
                Answer(None, formula), hand, vision=False, penalty_sum=False, partial_reward=False
            )
            assert judged[:2] == ("solved", 5), formula
            name, reward, _ = released(formula, hand)
            assert (name, reward) == ("solved", 5) or float_value(formula) != 24
            missed += reward != 5
    assert 0 < missed < 60


def reference_strings(hand: tuple[int, ...], target: int) -> set[str]:
    """The released solver's search, one string at a time, exactly."""
    n = len(hand)
    length = 2 * n - 1
    brackets = (
        [()]
        + [
            (x, y)
            for x in range(0, length, 2)
            for y in range(x + 4, length + 2, 2)
            if (x, y) != (0, length + 1)
        ]
        + [(0, 4, 6, 10)]
    )
    found = set()
    for digits in set(permutations(hand)):
        for ops in product("+-*/", repeat=n - 1):
            parts = [str(p) for p in chain.from_iterable(zip_longest(digits, ops, fillvalue=""))]
            for places in brackets:
                string = parts[:]
                for place, bracket in zip(places, "()" * (len(places) // 2), strict=False):
                    string.insert(place, bracket)
                text = "".join(string)
                value = evaluate(parse(text).postfix)
                if value and Fraction(*value) == target:
                    found.add(text)
    return found


@pytest.mark.parametrize("hand", [(3, 3, 8, 8), (1, 5, 10, 10), (2, 2, 4, 6)])
def test_solution_strings_are_those_of_the_released_search(hand):
    assert set(solution_strings(hand, 24)) == reference_strings(hand, 24)


CASES = json.loads((Path(__file__).parent / "released_cases.json").read_text())
"""What the released program did with an answer to a hand: the reward, whether it was solved, and
the beginning of a solution that the message named. Recorded by calling its functions."""


@pytest.fixture(scope="module")
def released_environments():
    keywords = {"preset": "paper_code", "image_size": 64}
    return {
        vision: GeneralPoints(modality="vision" if vision else "language", **keywords)
        for vision in (False, True)
    }


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_the_released_program_did_the_same(case, released_environments):
    env = released_environments[case["vision"]]
    env.reset(seed=0)
    numbers = tuple(case["numbers"])
    env.hand = Hand(tuple(case["cards"]), numbers, tuple(sorted(numbers)), 24)
    observation, reward, terminated, truncated, _ = env.step(case["answer"])
    assert (reward, terminated, truncated) == (case["reward"], case["solved"], False)
    hint = re.search(r"(\S+) is partially correct|begins with (\S+)\.", observation["message"])
    assert (hint and (hint.group(1) or hint.group(2))) == case["hint"]
    assert "because ." not in observation["message"]
    assert "because ," not in observation["message"]


def test_the_recorded_cases_cover_every_outcome():
    outcomes = {(case["reward"], case["hint"] is not None, case["vision"]) for case in CASES}
    for vision in (False, True):
        assert {
            (reward, hint, vision)
            for reward, hint in [(5, False), (1, False), (0, False), (-1, True), (-1, False)]
        } | {(-2, False, vision), (-3, False, vision), (-4, False, vision)} <= outcomes
    assert (-1.5, False, True) in outcomes


@pytest.mark.parametrize("style", ["full", "brief"])
def test_a_hint_is_given_where_a_legal_formula_has_a_wrong_value(style):
    def messages(preset, hand, formula):
        env = GeneralPoints(preset=preset, prompt_style=style, feedback="prefix_hint")
        env.reset(seed=0)
        env.hand = hand
        answer = formula
        if style == "full":
            answer = f'{{"cards": [], "formula": "{formula}=24",}}'
        return env.step(answer)[0]["message"]

    assert "10+10+5" in messages("paper_code", HAND, "10+10+5*1")
    assert "10+10+5" in messages("fixed", HAND, "10 + 10 + 5 * 1")
    assert "10+10+5" in messages("fixed", HAND, "10＋10＋5×1")
    assert "10+10" not in messages("paper_code", HAND, "10+10+5-1)")
    assert "10+10+5-1" in messages("fixed", HAND, "10+10+5-1)")
    assert "8/" not in messages("paper_code", EIGHTS, "8/(3-8/3)")
    assert "3" not in messages("fixed", EIGHTS, "3/8/3/8").replace("9/64", "").replace("1/64", "")
    assert "4" not in messages("paper_code", HAND, "4*6").replace("[4, 6]", "")


def test_a_failure_without_a_reason_has_a_whole_sentence():
    env = GeneralPoints(preset="paper_code")
    env.reset(seed=0)
    env.hand = EIGHTS
    observation, reward, *_ = env.step('{"cards": [], "formula": "8/(3-8/3)=24",}')
    assert (observation["message"], reward) == ("You failed this trial. Try again.", 0)


def test_longest_prefix():
    assert longest_prefix("8/(3-9", (3, 3, 8, 8), 24) == "8/(3-"
    assert longest_prefix("", (3, 3, 8, 8), 24) == ""
