"""Formulas: exact against Fractions, bounded in time on anything, never executed."""

from __future__ import annotations

import contextlib
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.general_points import formula as module
from envs.general_points.formula import (
    FormulaError,
    compact,
    evaluate,
    parse,
    parse_equation,
    plain,
)
from tests.support.effort import assert_turns


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
        value = {
            "+": lambda: lv + rv,
            "-": lambda: lv - rv,
            "*": lambda: lv * rv,
            "/": lambda: lv / rv,
        }[op]()
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
    with contextlib.suppress(FormulaError):
        numbers, postfix = parse(text)
        assert len(postfix) == 2 * len(numbers) - 1
    with contextlib.suppress(FormulaError):
        parse_equation(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "1 2",
        "1+",
        "+1",
        "-1",
        "1++2",
        "1**2",
        "9**9**9",
        "2^3",
        "()",
        "(1",
        "1)",
        "1(2)",
        "(1)2",
        "2(3)",
        "1,2",
        "1.5",
        "٣",
        "0x1",
        "1e3",
        "07",
        "00",
        "12345",
        "1=1",
        "(" * 10_000,
        "6÷2",
        "1\u200b+2",
        "(1+)2",
        "(+1)2",
        "1()+2",
        "[1+2]",
        "1:2",
        "1*/2",
        "x",
        "1+2)-(3",
        ")(",
        "1" * 10_000,
        "(" * 33 + "1" + ")" * 33,
        "__import__('os')",
        "1//2",
    ],
)
def test_what_is_no_formula(text):
    with pytest.raises(FormulaError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/(3-8/3)", (24, 1)),
        ("10 - 2 - 3", (5, 1)),
        ("16/4/2", (2, 1)),
        ("2+3*4", (14, 1)),
        ("(2+3)*4", (20, 1)),
        ("((7))", (7, 1)),
        ("1/3", (1, 3)),
        ("8-3-2*1", (3, 1)),
        ("8/4*2", (4, 1)),
        ("8-(3-2)", (7, 1)),
        ("49/2", (49, 2)),
        ("1\u00a0+\u30002\t*\n3", (7, 1)),
        ("0*5", (0, 1)),
    ],
)
def test_values(text, value):
    p, q = evaluate(parse(text).postfix)
    assert Fraction(p, q) == Fraction(*value)


def test_the_depth_and_the_length_have_limits_that_can_be_set():
    deepest = "(" * 32 + "1" + ")" * 32
    assert parse(deepest).numbers == [1]
    assert parse("1" + " " * 255).numbers == [1]
    with pytest.raises(FormulaError, match="too nested"):
        parse(f"({deepest})")
    with pytest.raises(FormulaError, match="longer than 256"):
        parse("1" + " " * 256)
    assert parse(f"({deepest})", max_depth=33).numbers == [1]
    assert parse("1" + " " * 256, max_length=257).numbers == [1]


DOCUMENTED = {
    "plus": "+",
    "minus": "-",
    "times": "*",
    "divided by": "/",
}


def test_the_documentation_lists_every_accepted_sign():
    """The list is what is accepted, sign by sign."""
    listed = {
        sign: set(re.search(rf"- {name}: `([^`]*)`", plain.__doc__).group(1).split())
        for name, sign in DOCUMENTED.items()
    }
    accepted = {sign: set(module._SIGNS[sign]) for sign in DOCUMENTED.values()}
    assert listed == accepted


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *[(sign, "+") for sign in "＋﹢"],
        *[(sign, "-") for sign in "−–‐‑－﹣"],
        *[(sign, "*") for sign in "×✕✖⨯∗·∙⋅•＊xXｘ"],
        *[(sign, "/") for sign in "÷∕⁄／"],
    ],
)
def test_accepted_operators(written, meant):
    formula, stated = parse_equation(f"（１2{written} 3）")
    assert formula == parse(f"(12{meant}3)")
    assert stated is None


@pytest.mark.parametrize(
    "text",
    [
        "12＊（3－1）＝24．0",
        "24=12*(3-1)",
        " 24.00 ＝ 12x(3−1) ",
        "12*(3-1)=24",
        "12*(3-1) = 24.000",
    ],
)
def test_forms_of_an_equation(text):
    formula, stated = parse_equation(text)
    assert formula == parse("12*(3-1)")
    assert stated == 24


def test_what_an_equation_states_is_exact():
    assert parse_equation("1=24.5")[1] == Fraction(49, 2)
    assert parse_equation("1+1=24.000000001")[1] != 24
    assert parse_equation("24=1+1") == (parse("1+1"), 24)
    assert parse_equation("24=5") == (parse("24"), 5)


@pytest.mark.parametrize(
    "text",
    [
        "1+2=",
        "=3",
        "=1+2",
        "1+2=3=3",
        "3=1+2=3",
        "1+2==3",
        "1+2=+3",
        "1+2=3.",
        "1+2=.5",
        "1+2=1+2",
        "1+2=3,0",
        "1+2=1234567890",
        "1+2≈3",
        "1+2=1.1234567890",
        "3.0=3.0",
        "=",
    ],
)
def test_what_is_no_equation(text):
    with pytest.raises(FormulaError):
        parse_equation(text)


def test_compact_formulas():
    assert compact(" 1\u3000＋2 × 3 ") == "1+2*3"
    assert len(compact("1" * 500)) == 256


def test_division_by_zero_has_no_value():
    assert evaluate(parse("5/(3-3)").postfix) is None


def test_hostile_texts_take_no_time():
    def read():
        for text in (
            "(" * 30_000,
            "9" * 30_000,
            "9*" * 15_000,
            "(1" * 15_000,
            "1+" * 128,
            "9*" * 127 + "9",
        ):
            with contextlib.suppress(FormulaError):
                evaluate(parse_equation(text)[0].postfix)

    assert_turns(read, 1e6)
