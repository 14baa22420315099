"""Formulas as text: a bounded, exact, linear-time parser; nothing is ever executed.

In: any text. Out: its numbers and its exact value, or FormulaError saying what is illegal.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LENGTH = 256
MAX_DIGITS = 4
MAX_DEPTH = 32

_TOKEN = re.compile(r"[0-9]+|\S")
_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_SYNONYMS = str.maketrans({"×": "*", "÷": "/", "−": "-", "–": "-"})


class FormulaError(ValueError):
    """The text is no formula; the message says why in a few words."""


class Formula(NamedTuple):
    """numbers: in the order written; postfix: numbers and operators in order of evaluation."""

    numbers: list[int]
    postfix: list[int | str]


def parse(text: str) -> Formula:
    """Read whole numbers, + - * / and parentheses; signs before a number are not allowed."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"longer than {MAX_LENGTH} characters")
    numbers: list[int] = []
    postfix: list[int | str] = []
    waiting: list[str] = []
    depth = 0
    operand_next = True
    for token in _TOKEN.findall(text.translate(_SYNONYMS)):
        if "0" <= token[0] <= "9":
            if not operand_next:
                raise FormulaError("two numbers without an operator between them")
            if len(token) > MAX_DIGITS or (token[0] == "0" and len(token) > 1):
                raise FormulaError(f"{token[:8]} is no number of a card")
            numbers.append(int(token))
            postfix.append(numbers[-1])
            operand_next = False
        elif token in _PRECEDENCE:
            if operand_next:
                raise FormulaError(f"no number before {token}")
            while waiting and _PRECEDENCE.get(waiting[-1], 0) >= _PRECEDENCE[token]:
                postfix.append(waiting.pop())
            waiting.append(token)
            operand_next = True
        elif token == "(":
            depth += 1
            if not operand_next or depth > MAX_DEPTH:
                raise FormulaError("misplaced parenthesis" if not operand_next else "too nested")
            waiting.append(token)
        elif token == ")":
            depth -= 1
            if operand_next or depth < 0:
                raise FormulaError("unmatched parenthesis" if depth < 0 else "no number before )")
            while (operator := waiting.pop()) != "(":
                postfix.append(operator)
        else:
            raise FormulaError("illegal characters")
    if operand_next:
        raise FormulaError("it ends without a number" if postfix else "it is empty")
    if depth:
        raise FormulaError("unmatched parenthesis")
    postfix.extend(reversed(waiting))
    return Formula(numbers, postfix)


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
