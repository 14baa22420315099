"""Formulas: exact against Fractions, bounded in time on anything, never executed."""

from __future__ import annotations

import contextlib
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.general_points.formula import FormulaError, evaluate, parse


@st.composite
def expressions(draw, depth=4):
    """(text, value or None where it divides by zero, numbers), fully in parentheses or bare."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 13))
        return str(number), Fraction(number), [number], 3
    left, lv, ln, lp = draw(expressions(depth=depth - 1))
    right, rv, rn, rp = draw(expressions(depth=depth - 1))
    op = draw(st.sampled_from("+-*/"))
    precedence = 1 if op in "+-" else 2
    space = draw(st.sampled_from(["", " "]))
    left = f"({left})" if lp < precedence else left
    right = f"({right})" if rp <= precedence else right
    value = None
    if lv is not None and rv is not None and not (op == "/" and rv == 0):
        value = {"+": lambda: lv + rv, "-": lambda: lv - rv,
                 "*": lambda: lv * rv, "/": lambda: lv / rv}[op]()  # fmt: skip
    return f"{left}{space}{op}{space}{right}", value, ln + rn, precedence


@settings(deadline=None)
@given(expressions())
def test_parsed_value_is_exact(expression):
    text, expected, numbers, _ = expression
    if len(text) > 256:
        return
    formula = parse(text)
    assert formula.numbers == numbers
    value = evaluate(formula.postfix)
    assert (None if value is None else Fraction(*value)) == expected


@given(st.text() | st.text(alphabet="0123456789+-*/() =^.eE_x", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_a_formula_or_an_error(text):
    try:
        numbers, postfix = parse(text)
    except FormulaError as error:
        assert str(error).isascii()
    else:
        assert len(postfix) == 2 * len(numbers) - 1


@pytest.mark.parametrize(
    "text",
    ["", " ", "1 2", "1+", "+1", "-1", "1++2", "1**2", "9**9**9", "2^3", "()", "(1", "1)", "1(2)",
     "(1)2", "2(3)", "1,2", "1.5", "٣", "0x1", "1e3", "07", "00", "12345", "1=1", "(" * 10_000,
     "1" * 10_000, "(" * 33 + "1" + ")" * 33, "__import__('os')", "1//2"],
)  # fmt: skip
def test_what_is_no_formula(text):
    with pytest.raises(FormulaError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/(3-8/3)", (24, 1)), ("10 - 2 - 3", (5, 1)), ("16/4/2", (2, 1)), ("2+3*4", (14, 1)),
     ("(2+3)*4", (20, 1)), ("((7))", (7, 1)), ("1/3", (1, 3)), ("6÷2×3−1", (8, 1)),
     ("0*5", (0, 1))],
)  # fmt: skip
def test_values(text, value):
    p, q = evaluate(parse(text).postfix)
    assert Fraction(p, q) == Fraction(*value)


def test_division_by_zero_has_no_value():
    assert evaluate(parse("5/(3-3)").postfix) is None


def test_hostile_texts_take_no_time():
    begun = time.process_time()
    for text in (
        "(" * 30_000,
        "9" * 30_000,
        "9*" * 15_000,
        "(1" * 15_000,
        "1+" * 128,
        "9*" * 127 + "9",
    ):
        with contextlib.suppress(FormulaError):
            evaluate(parse(text).postfix)
    assert time.process_time() - begun < 0.1
