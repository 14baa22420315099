"""The solver against brute force, its counts, its speed, and its idea of equivalence."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import combinations_with_replacement

import pytest

from envs.general_points import solver
from envs.general_points.formula import evaluate, parse
from tests.support.effort import assert_turns


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """Every value by combining any two numbers, again and again: an independent reference."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            if i == j:
                continue
            rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
            a, b = numbers[i], numbers[j]
            for value in [a + b, a - b, a * b] + ([a / b] if b else []):
                found |= reachable((*rest, value))
    return found


def test_published_counts_in_under_five_seconds():
    def solve():
        for cached in (*solver._VALUES, solver.splits, solver.solvable, solver.solutions):
            cached.cache_clear()
        hands = combinations_with_replacement(range(1, 14), 4)
        table[:] = [hand for hand in hands if solver.solvable(hand, 24)]
        solved.update({hand: solver.solutions(hand, (24, 1)) for hand in table})

    table, solved = [], {}
    assert_turns(solve, 150e6)
    assert len(list(combinations_with_replacement(range(1, 14), 4))) == 1820
    assert len(table) == 1362
    assert all(solved.values())
    low = list(combinations_with_replacement(range(1, 11), 4))
    assert (len(low), sum(solver.solvable(hand, 24) for hand in low)) == (715, 566)


@pytest.mark.parametrize("seed", range(6))
def test_values_agree_with_brute_force(seed):
    hand = tuple(sorted(random.Random(seed).choices(range(1, 14), k=4)))
    expected = reachable(tuple(Fraction(n) for n in hand))
    assert {Fraction(*value) for value in solver.values(hand)} == expected
    for target in range(1, 60):
        assert solver.solvable(hand, target) == (Fraction(target) in expected)


@pytest.mark.parametrize(
    ("hand", "count"),
    [((1009, 10007), 6), ((1009, 10007, 100003), 68), ((1009, 10007, 100003, 1000003), 1170)],
)
def test_generic_numbers_have_one_formula_a_value(hand, count):
    """OEIS A140606 counts the inequivalent formulas of n symbols: 1, 6, 68, 1170.

    Numbers without a relation between them give each formula a value of its own.
    """
    values = solver.values(hand)
    assert len(values) == count
    assert all(len(solver.solutions(hand, value)) == 1 for value in values)


@pytest.mark.parametrize("seed", range(10))
def test_every_solution_is_right_and_only_sums_in_products_have_parentheses(seed):
    rng = random.Random(seed)
    hand = tuple(sorted(rng.choices(range(1, 14), k=rng.choice([3, 4, 5]))))
    texts = set()
    for node in solver.solutions(hand, (24, 1)):
        text = solver.text(node)
        assert text not in texts
        texts.add(text)
        numbers, postfix = parse(text)
        assert tuple(sorted(numbers)) == hand
        p, q = evaluate(postfix)
        assert p == 24 * q
        for begin, end in pairs(text):
            assert any(c in "+-" for c in text[begin:end]), text
            assert text[begin - 1 : begin] in ("*", "/") or text[end + 1] in "*/", text


def pairs(text: str) -> list[tuple[int, int]]:
    """Positions of matching parentheses."""
    found, waiting = [], []
    for i, character in enumerate(text):
        if character == "(":
            waiting.append(i)
        elif character == ")":
            found.append((waiting.pop(), i))
    return found


def test_famous_hands():
    assert [solver.text(node) for node in solver.ranked((3, 3, 8, 8), 24)] == ["8/(3-8/3)"]
    assert [solver.text(node) for node in solver.ranked((1, 5, 5, 5), 24)] == ["5*(5-1/5)"]
    assert not solver.solvable((1, 1, 1, 1), 24)
    assert solver.text(solver.ranked((1, 5, 10, 10), 24)[0]) == "10+10+5-1"


def test_zero_inside_a_formula_is_handled():
    texts = {solver.text(node) for node in solver.solutions((5, 5, 7, 24), (24, 1))}
    assert "24+7*(5-5)" in texts
    assert any("/" in text and "(5-5)/7" in text for text in texts)
    assert not any("7/(5-5)" in text for text in texts)


def test_order_places_free_numbers_as_the_cards_lie():
    node = solver.ranked((1, 5, 10, 10), 24)[0]
    assert solver.text(node, {5: 0, 10: 1, 1: 3}) == "5+10+10-1"
