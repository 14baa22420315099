"""The verifier of the presets fixed and paper_text: exact, penalties as the paper states them.

Input: an answer and a hand. Output: a `Verdict` on this answer alone.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

from envs.general_points.answers import Answer
from envs.general_points.formula import (
    MAX_LENGTH,
    FormulaError,
    compact,
    evaluate,
    parse_equation,
    plain,
)
from envs.general_points.released import longest_prefix
from envs.general_points.settings import REWARDS
from envs.general_points.solver import ratio
from envs.rewards import Rewards

VERDICTS = ("solved", "partial", "wrong", "unused", "foreign", "illegal", "misread", "exhausted")


class Hand(NamedTuple):
    """One deal.

    names: rank names as dealt.
    numbers: what the cards count under the scored rule, as dealt.
    key: numbers, sorted.
    target: value to reach.
    """

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    key: tuple[int, ...]
    target: int


class Verdict(NamedTuple):
    """What the verifier says of one answer.

    name: one of VERDICTS.
    reward: of this answer, without exhaustion's -1.
    reason: why it failed, in words; empty when solved.
    legal: whether the formula is one.
    recognised: share of the cards read right, None where the answer states none.
    misread: whether the cards were to be read from a picture and were not all read right.
    """

    name: str
    reward: float
    reason: str
    legal: bool
    recognised: float | None
    misread: bool = False


def recognised(cards: list[str] | None, hand: Hand) -> float | None:
    """Share of the hand's cards among those read, as multisets; more cards than dealt cost."""
    if cards is None:
        return None
    if tuple(cards) == hand.names:
        return 1.0
    right = sum((Counter(cards) & Counter(hand.names)).values())
    return right / max(len(hand.names), len(cards))


def grade(
    answer: Answer,
    hand: Hand,
    *,
    vision: bool,
    penalty_sum: bool,
    partial_reward: bool,
    rewards: Rewards = REWARDS,
) -> Verdict:
    """Judge one answer.

    Rules in order: the formula is legal, its numbers are the cards', its value is the target; the
    first that fails counts, or with penalty_sum the first two add up. In vision the reward
    `misread` is added where cards are misread or not stated, also where the formula solves.
    """
    name, reward, reason, legal = _grade_formula(answer.formula, hand, penalty_sum, rewards)
    if partial_reward and name == "illegal" and _begins_a_solution(answer.formula, hand):
        name, reward, reason = "partial", rewards["partial"], "your formula is unfinished"
    share = recognised(answer.cards, hand)
    misread = vision and share != 1.0
    if misread:
        reward += rewards["misread"]
        reason = f"{reason}, and you misread the cards" if reason else "you misread the cards"
    return Verdict(name, reward, reason, legal, share, misread)


def _grade_formula(
    text: str | None, hand: Hand, penalty_sum: bool, rewards: Rewards
) -> tuple[str, float, str, bool]:
    if text is None:
        reason = "your formula is illegal: the answer holds none in the asked-for format"
        return "illegal", rewards["illegal"], reason, False
    try:
        formula, stated = parse_equation(text)
    except FormulaError as error:
        reason, reward = f"your formula is illegal: {error}", rewards["illegal"]
        if penalty_sum:
            numbers = [int(n[:9]) for n in re.findall("[0-9]+", plain(text[:MAX_LENGTH]))]
            if misuse := _misuse(numbers, hand):
                reason, reward = f"{reason}, and {misuse[1]}", reward + rewards["misused"]
        return "illegal", reward, reason, False
    if misuse := _misuse(formula.numbers, hand):
        return misuse[0], rewards["misused"], misuse[1], True
    value = evaluate(formula.postfix)
    if value is None:
        return "wrong", rewards["wrong"], "your formula divides by zero", True
    p, q = value
    if p != hand.target * q:
        p, q = ratio(p, q)
        shown = str(p) if q == 1 else f"{p}/{q}"
        reason = f"your formula evaluates to {shown}, not {hand.target}"
        return "wrong", rewards["wrong"], reason, True
    if stated not in (None, hand.target):
        shown = str(float(stated)) if stated.denominator > 1 else str(stated)
        reason = f"your formula evaluates to {hand.target}, not {shown}"
        return "wrong", rewards["wrong"], reason, True
    return "solved", rewards["solved"], "", True


def _misuse(numbers: list[int], hand: Hand) -> tuple[str, str] | None:
    """(verdict, reason) when the numbers used are not exactly the cards'."""
    if sorted(numbers) == list(hand.key):
        return None
    used, dealt = Counter(numbers), Counter(hand.key)
    foreign, unused = sorted((used - dealt).elements()), sorted((dealt - used).elements())
    reasons = []
    if foreign:
        reasons.append(f"you used numbers that the cards do not give: {_listed(foreign)}")
    if unused:
        reasons.append(f"you did not use: {_listed(unused)}")
    return "foreign" if foreign else "unused", " and ".join(reasons)


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def _begins_a_solution(text: str | None, hand: Hand) -> bool:
    """Whether the text uses every number and is the beginning of a solution string."""
    begun = compact(text or "")
    numbers = sorted(int(n) for n in re.findall("[0-9]{1,4}", begun))
    return numbers == list(hand.key) and longest_prefix(begun, hand.key, hand.target) == begun
