"""The released code's verifier, faults included, for regression against the published figures.

Input: what the released parser read, and a hand. Output: a reward and its messages. Written from
the behaviour of the code of arXiv 2501.17161; its `eval` is a parse here, nothing is executed.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left
from collections import Counter
from functools import lru_cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.general_points.formula import FormulaError, evaluate, parse

SOLVED, PARTIAL, WRONG, MISUSED, ILLEGAL, MISREAD = 5.0, 1.0, -1.0, -2.0, -3.0, -1.5

_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_TOKEN = re.compile(r"\d+|[+\-*/()]")  # digits of any script, as there
MAX_DEPTH = 200
"""Parentheses that Python's `eval` takes within each other."""


class Grade(NamedTuple):
    """What the released verifier says of one answer; see `Verdict` for name, reward, legal."""

    name: str
    reward: float
    messages: list[str]
    legal: bool


def grade_released(
    formula: str,
    cards: list[str] | None,
    names: tuple[str, ...],
    numbers: tuple[int, ...],
    target: int,
    *,
    vision: bool,
    penalty_sum: bool,
    partial_reward: bool,
) -> Grade:
    """Judge one answer as the released verifier does.

    Its faults: misread cards replace every other grade; whitespace is illegal; each misplaced
    token costs 3 and each misuse of numbers 2, summed; unclosed parentheses and a trailing
    operator are not illegal, and where such a formula begins a solution it earns 1; values are
    floating point, and a formula that misses the target by rounding but is among the solutions
    earns 0 without a message. With penalty_sum off, only the first penalty counts.
    """
    if vision and sorted(cards or []) != sorted(names):
        return Grade("misread", MISREAD, ["you recognized wrong cards"], _is_legal(formula))
    tokens = _TOKEN.findall(formula)
    if "".join(tokens) != formula:
        return Grade("illegal", ILLEGAL, ["illegal characters"], False)
    messages = _misplaced(tokens)
    penalties = [ILLEGAL] * len(messages)
    misuse = _misuse([_number(t) for t in tokens if t.isdigit()], numbers)
    messages += misuse
    penalties += [MISUSED] * len(misuse)
    if penalties:
        reward = sum(penalties) if penalty_sum else penalties[0]
        name = "illegal" if penalties[0] == ILLEGAL else _misuse_name(misuse)
        shown = messages if penalty_sum else messages[:1]
        return Grade(name, reward, shown, penalties[0] != ILLEGAL)
    key = tuple(sorted(numbers))
    return _grade_value(formula, key, target, partial_reward)


def _grade_value(formula: str, key: tuple[int, ...], target: int, partial_reward: bool) -> Grade:
    legal = True
    try:
        if float_value(formula) == target:
            return Grade("solved", SOLVED, ["Correct solution"], True)
    except (FormulaError, ArithmeticError) as error:
        legal = not isinstance(error, FormulaError)
        if partial_reward and longest_prefix(formula, key, target) == formula:
            return Grade("partial", PARTIAL, ["partial solution"], legal)
    prefix = longest_prefix(formula, key, target)
    if prefix == formula and legal:
        return Grade("wrong", 0.0, [], legal)
    if not prefix:
        message = "your formula does not match any solution"
    else:
        message = f"{prefix} is partially correct but the full formula does not match any solution"
    return Grade("wrong", WRONG, [message], legal)


def _number(digits: str) -> int:
    """Its value; of a very long one the beginning, which is no card either."""
    return int(digits.lstrip("0")[:64] or "0")


def _is_legal(formula: str) -> bool:
    try:
        parse(formula, len(formula), MAX_DEPTH)
    except FormulaError:
        return False
    return True


def float_value(formula: str) -> float:
    """The value in Python's own arithmetic, `/` giving a float.

    Raises:
        FormulaError: Python would not parse it.
        ArithmeticError: division by zero or overflow.
    """
    stack: list[float] = []
    for token in parse(formula, len(formula), MAX_DEPTH).postfix:
        if isinstance(token, int):
            stack.append(token)
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(_OPERATORS[token](left, right))
    return stack[0]


def _kind(token: str) -> str:
    return "number" if token.isdigit() else token if token in "()" else "operator"


def _misplaced(tokens: list[str]) -> list[str]:
    """One message per token that may not follow the one before it."""
    messages = []
    previous, depth = "start", 0
    opening = ("start", "operator", "(")
    for token in tokens:
        kind = _kind(token)
        if kind == "number" and previous not in opening:
            messages.append("invalid sequence after number")
        elif kind == "operator" and previous not in ("number", ")"):
            messages.append("invalid sequence after operator")
        elif kind == "(":
            if previous in opening:
                depth += 1
            else:
                messages.append("invalid sequence before '('")
        elif kind == ")":
            if previous not in ("number", ")"):
                messages.append("invalid sequence after ')'")
            elif depth:
                depth -= 1
            else:
                messages.append("unmatched closing parenthesis")
        previous = kind
    return messages


def _misuse(numbers: list[int], cards: tuple[int, ...]) -> list[str]:
    used, dealt = Counter(numbers), Counter(cards)
    messages = []
    invalid = [n for n in used if n not in dealt]
    overused = [n for n in used if used[n] > dealt[n]]
    if invalid:
        messages.append(f"you used invalid numbers: {invalid[:8]}")
    elif overused:
        messages.append(f"you used numbers: {overused} too many times")
    underused = [n for n in dealt if dealt[n] > used[n]]
    if underused:
        messages.append(f"you didn't use numbers: {underused}")
    return messages


def _misuse_name(messages: list[str]) -> str:
    return "unused" if messages[0].startswith("you didn't") else "foreign"


def longest_prefix(formula: str, key: tuple[int, ...], target: int) -> str:
    """The longest run of the formula's first tokens with which some solution string begins."""
    strings = solution_strings(key, target)
    prefix = ""
    for token in _TOKEN.findall(formula):
        longer = prefix + token
        at = bisect_left(strings, longer)
        if at == len(strings) or not strings[at].startswith(longer):
            break
        prefix = longer
    return prefix


@lru_cache(maxsize=1024)
def solution_strings(key: tuple[int, ...], target: int) -> list[str]:
    """Every solution among the strings that the released solver tries, sorted.

    It tries all orders and operators with no parentheses, with one pair around two or more
    numbers (not all), and with one pair around the first two and one around the next two.
    Values are found in floating point for all strings at once, then confirmed exactly.
    """
    n = len(key)
    orders = np.array(sorted(set(permutations(key))), dtype=np.float64)
    operators = np.array(list(product(range(4), repeat=n - 1)))
    hands, ops = np.repeat(orders, len(operators), 0), np.tile(operators, (len(orders), 1))
    pairs = [((i, j),) for i in range(n) for j in range(i + 2, n + 1) if (i, j) != (0, n)]
    patterns: list[tuple[tuple[int, int], ...]] = [(), *pairs]
    if n >= 4:
        patterns.append(((0, 2), (2, 4)))
    solved = set()
    for pattern in patterns:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            close = np.abs(_pattern_values(hands, ops, pattern) - target) < 1e-6
        for row in np.flatnonzero(close):
            string = _string(hands[row].astype(int).tolist(), ops[row].tolist(), pattern)
            exact = evaluate(parse(string).postfix)
            if exact is not None and exact[0] == target * exact[1]:
                solved.add(string)
    return sorted(solved)


def _flat(hands: NDArray[np.float64], ops: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values [N] of a0 op0 a1 op1 ..., * and / first; hands [N, n], ops [N, n-1]."""
    total, term = np.zeros(len(hands)), hands[:, 0]
    for i in range(ops.shape[1]):
        op, number = ops[:, i], hands[:, i + 1]
        adds = op < 2
        total = np.where(adds, total + term, total)
        product_ = np.where(op == 2, term * number, term / number)
        term = np.where(adds, np.where(op == 0, number, -number), product_)
    return total + term


def _pattern_values(
    hands: NDArray[np.float64], ops: NDArray[np.int64], pattern: tuple[tuple[int, int], ...]
) -> NDArray[np.float64]:
    for begin, end in reversed(pattern):
        inner = _flat(hands[:, begin:end], ops[:, begin : end - 1])
        hands = np.column_stack([hands[:, :begin], inner, hands[:, end:]])
        ops = np.column_stack([ops[:, :begin], ops[:, end - 1 :]])
    return _flat(hands, ops)


def _string(numbers: list[int], ops: list[int], pattern: tuple[tuple[int, int], ...]) -> str:
    parts = [str(number) for number in numbers]
    for begin, end in pattern:
        parts[begin] = "(" + parts[begin]
        parts[end - 1] += ")"
    return parts[0] + "".join("+-*/"[op] + part for op, part in zip(ops, parts[1:], strict=True))
