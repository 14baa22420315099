"""Formulas as text: a bounded, exact, linear-time parser.

Nothing is executed (no-model-output-is-executed). `plain` lists the signs that are accepted,
`parse_equation` the forms of an answer.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

MAX_LENGTH = 256
MAX_DIGITS = 4
MAX_DEPTH = 32

_SIGNS = {
    "+": "＋﹢",
    "-": "−–‐‑－﹣",
    "*": "×✕✖⨯∗·∙⋅•＊ｘxX",
    "/": "÷∕⁄／",
    "(": "（",
    ")": "）",
    "=": "＝",
    ".": "．",
    **{str(digit): chr(0xFF10 + digit) for digit in range(10)},
}
_PLAIN = str.maketrans({other: sign for sign, others in _SIGNS.items() for other in others})
_TOKEN = re.compile(r"[0-9]+|\S")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_STATED = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


class FormulaError(ValueError):
    """The text is no formula; the message says why in a few words."""


class Formula(NamedTuple):
    """numbers: in the order written; postfix: numbers and operators in order of evaluation."""

    numbers: list[int]
    postfix: list[int | str]


def plain(text: str) -> str:
    """The text with ASCII signs for those that are accepted in their place.

    - plus: `＋ ﹢`;
    - minus: `− – ‐ ‑ － ﹣` (the minus sign, the en dash, hyphens, full and small width);
    - times: `× ✕ ✖ ⨯ ∗ · ∙ ⋅ • ＊ x X ｘ`;
    - divided by: `÷ ∕ ⁄ ／`;
    - full-width digits, parentheses, point and equals sign.

    White space of every kind is allowed between numbers and signs. Everything else is illegal:
    other brackets, `:` for a division, `**`, `//`, digits of other scripts, letters.
    """
    return text.translate(_PLAIN)


def compact(text: str) -> str:
    """The beginning of a plain formula, MAX_LENGTH characters at most, without white space."""
    return "".join(plain(text[:MAX_LENGTH]).split())


def parse_equation(text: str) -> tuple[Formula, Fraction | None]:
    """Read `FORMULA`, `FORMULA=NUMBER` or `NUMBER=FORMULA`; the number is None where missing.

    NUMBER has at most nine digits before and behind its point (`24`, `24.0`). Of two numbers
    the first is the formula.
    """
    left, equals, right = plain(text).partition("=")
    if not equals:
        return parse(left), None
    if _STATED.fullmatch(left.strip()) and not _STATED.fullmatch(right.strip()):
        left, right = right, left
    formula = parse(left)
    if not _STATED.fullmatch(right.strip()):
        raise FormulaError("no number on the other side of =")
    return formula, Fraction(right.strip())


def parse(text: str, max_length: int = MAX_LENGTH, max_depth: int = MAX_DEPTH) -> Formula:
    """Read whole numbers, + - * / and parentheses; signs before a number are not allowed."""
    if len(text) > max_length:
        raise FormulaError(f"longer than {max_length} characters")
    numbers: list[int] = []
    postfix: list[int | str] = []
    waiting: list[str] = []
    depth = 0
    operand_next = True
    for token in _TOKEN.findall(text):
        if reason := _misplaced(token, operand_next, depth):
            raise FormulaError(reason)
        if token == "(":
            depth += 1
            if depth > max_depth:
                raise FormulaError("too nested")
            waiting.append(token)
        elif token == ")":
            depth -= 1
            while (operator := waiting.pop()) != "(":
                postfix.append(operator)
        elif token in _PRECEDENCE:
            while waiting and _PRECEDENCE.get(waiting[-1], 0) >= _PRECEDENCE[token]:
                postfix.append(waiting.pop())
            waiting.append(token)
            operand_next = True
        else:
            numbers.append(int(token))
            postfix.append(numbers[-1])
            operand_next = False
    if operand_next:
        raise FormulaError("it ends without a number" if postfix else "it is empty")
    if depth:
        raise FormulaError("unmatched parenthesis")
    postfix.extend(reversed(waiting))
    return Formula(numbers, postfix)


def _misplaced(token: str, operand_next: bool, depth: int) -> str | None:
    """Why a token cannot stand where a number is due (operand_next) or is not; None if it can."""
    if token == "(":
        return None if operand_next else "misplaced parenthesis"
    if token == ")":
        if depth == 0:
            return "unmatched parenthesis"
        return "no number before )" if operand_next else None
    if token in _PRECEDENCE:
        return f"no number before {token}" if operand_next else None
    if not "0" <= token[0] <= "9":
        return "illegal characters"
    if not operand_next:
        return "two numbers without an operator between them"
    if len(token) > MAX_DIGITS or (token[0] == "0" and len(token) > 1):
        return f"{token[:8]} is no number of a card"
    return None


def apply(operator: str, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    """Exact a operator b of rationals (p, q), not reduced; None where it divides by zero."""
    (ap, aq), (bp, bq) = a, b
    if operator == "+":
        return ap * bq + bp * aq, aq * bq
    if operator == "-":
        return ap * bq - bp * aq, aq * bq
    if operator == "*":
        return ap * bp, aq * bq
    return (ap * bq, aq * bp) if bp else None


def evaluate(postfix: list[int | str]) -> tuple[int, int] | None:
    """The exact value as (p, q), q not 0, not reduced; None where it divides by zero."""
    stack: list[tuple[int, int]] = []
    for token in postfix:
        if isinstance(token, int):
            stack.append((token, 1))
            continue
        right, left = stack.pop(), stack.pop()
        value = apply(token, left, right)
        if value is None:
            return None
        stack.append(value)
    return stack[0]
