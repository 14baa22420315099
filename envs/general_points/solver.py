"""Every formula of a hand that reaches the target, exactly, up to equivalence.

Input: a sorted tuple of whole numbers and a target. Output: formula trees, and their text. Two
formulas are equivalent when commuting, regrouping or moving a sign turns one into the other.
Rationals are pairs (p, q) in lowest terms, q > 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from math import gcd
from typing import TypeAlias, cast

Rational = tuple[int, int]
Numbers = tuple[int, ...]

NUMBER, SUM, PRODUCT = 0, 1, 2
Node: TypeAlias = "tuple[int | tuple[Node, ...], ...]"
"""(NUMBER, n) | (SUM, plus, minus) | (PRODUCT, numerator, denominator): children in sorted tuples.

A node's value is never negative (signs live in sums), and no child has its parent's kind.
"""


def number(node: Node) -> int:
    """The number of a NUMBER."""
    return cast(int, node[1])


def sides(node: Node) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """What is added and subtracted in a SUM, multiplied and divided by in a PRODUCT."""
    _, ahead, behind = node
    return cast("tuple[Node, ...]", ahead), cast("tuple[Node, ...]", behind)


def ratio(p: int, q: int) -> Rational:
    """The fraction p / q in lowest terms; q is not 0."""
    divisor = gcd(p, q) if q > 0 else -gcd(p, q)
    return p // divisor, q // divisor


@lru_cache(maxsize=1 << 16)
def splits(numbers: Numbers) -> tuple[tuple[Numbers, Numbers], ...]:
    """Every way to part sorted numbers into two non-empty multisets, each once."""
    others = range(1, len(numbers))
    parted: set[tuple[Numbers, Numbers]] = set()
    for size in range(len(numbers) - 1):
        for chosen in combinations(others, size):
            left = (numbers[0], *(numbers[i] for i in chosen))
            right = tuple(numbers[i] for i in others if i not in chosen)
            if (right, left) not in parted:
                parted.add((left, right))
    return tuple(sorted(parted))


def values(numbers: Numbers) -> frozenset[Rational]:
    """Every value that a formula of exactly these numbers (sorted) can take."""
    return _VALUES[min(max(len(numbers) - 3, 0), 2)](numbers)


def _values(numbers: Numbers) -> frozenset[Rational]:
    if len(numbers) == 1:
        return frozenset({(numbers[0], 1)})
    reached: set[Rational] = set()
    for left, right in splits(numbers):
        for ap, aq in values(left):
            for bp, bq in values(right):
                q = aq * bq
                x, y = ap * bq, bp * aq
                reached.update((ratio(x + y, q), ratio(x - y, q), ratio(y - x, q)))
                reached.add(ratio(ap * bp, q))
                if bp:
                    reached.add(ratio(x, y))
                if ap:
                    reached.add(ratio(y, x))
    return frozenset(reached)


# Up to 3, 4, and more numbers have up to 68, 1,170 and 27,142 values: the caches hold about
# 100 MB at most, each.
_VALUES = tuple(lru_cache(maxsize=size)(_values) for size in (1 << 13, 1 << 10, 1 << 4))


def _partners(target: Rational, known: Rational) -> Iterator[tuple[str, Rational]]:
    """Pairs (operation, other) with `known operation other` = target; r- and r/ swap the two."""
    (tp, tq), (p, q) = target, known
    yield "+", ratio(tp * q - p * tq, tq * q)
    yield "-", ratio(p * tq - tp * q, tq * q)
    yield "r-", ratio(p * tq + tp * q, tq * q)
    if p:
        yield "*", ratio(tp * q, tq * p)
        yield "r/", ratio(tp * p, tq * q)
        if tp:
            yield "/", ratio(p * tq, q * tp)


@lru_cache(maxsize=1 << 17)
def solvable(numbers: Numbers, target: int) -> bool:
    """Whether any formula of exactly these numbers (sorted) equals the target."""
    goal = (target, 1)
    if len(numbers) == 1:
        return numbers[0] == target
    for left, right in splits(numbers):
        few, many = sorted((values(left), values(right)), key=len)
        for known in few:
            if any(other in many for _, other in _partners(goal, known)):
                return True
            if target == 0 and known[0] == 0:
                return True
    return False


@lru_cache(maxsize=1 << 15)
def solutions(numbers: Numbers, target: Rational) -> frozenset[Node]:
    """Every inequivalent formula of these numbers (sorted) whose value is the target.

    For a target below 0 the trees are those of its absolute value whose sign can be turned.
    """
    if len(numbers) == 1:
        return frozenset({(NUMBER, numbers[0])} if target == (numbers[0], 1) else ())
    nodes: set[Node] = set()
    for left, right in splits(numbers):
        others = values(right)
        for known in values(left):
            pairs = [(op, other) for op, other in _partners(target, known) if other in others]
            if target[0] == 0 and known[0] == 0:
                pairs += [(op, b) for b in others for op in ("*", "/") if op == "*" or b[0]]
            for op, other in pairs:
                for a in solutions(left, known):
                    for b in solutions(right, other):
                        nodes.add(_join(op, a, known, b, other, target))
    return frozenset(nodes)


def _join(op: str, a: Node, av: Rational, b: Node, bv: Rational, target: Rational) -> Node:
    if op in ("*", "/", "r/"):
        if op == "r/":
            a, b = b, a
        over, under = _factors(a)
        times, by = _factors(b) if op == "*" else _factors(b)[::-1]
        return (PRODUCT, tuple(sorted(over + times)), tuple(sorted(under + by)))
    a_sign, b_sign = (1 if av[0] >= 0 else -1), (1 if bv[0] >= 0 else -1)
    if op == "r-":
        a_sign = -a_sign
    elif op == "-":
        b_sign = -b_sign
    a_plus, a_minus = _terms(a, a_sign, av[0] == 0)
    b_plus, b_minus = _terms(b, b_sign, bv[0] == 0)
    plus, minus = tuple(sorted(a_plus + b_plus)), tuple(sorted(a_minus + b_minus))
    if target[0] < 0 or (target[0] == 0 and minus > plus):
        plus, minus = minus, plus
    return (SUM, plus, minus)


def _terms(node: Node, sign: int, zero: bool) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The signed terms of a node: (plus, minus); a product of value 0 counts as plus."""
    if node[0] == SUM:
        plus, minus = sides(node)
        return (plus, minus) if sign > 0 else (minus, plus)
    return ((node,), ()) if sign > 0 or zero else ((), (node,))


def _factors(node: Node) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    return sides(node) if node[0] == PRODUCT else ((node,), ())


def text(node: Node, order: dict[int, int] | None = None) -> str:
    """A node in the fewest parentheses, without spaces.

    Terms and factors stand by falling first number, or as their first numbers stand in `order`
    (number to position), numbers and products before sums.
    """
    kind = node[0]
    if kind == NUMBER:
        return str(number(node))

    def key(child: Node) -> tuple[bool, int, int, str]:
        first = _first(child, order)
        place = order[first] if order else -first
        return child[0] == SUM, place, cast(int, child[0]), text(child, order)

    ahead, behind = (sorted(children, key=key) for children in sides(node))
    if kind == SUM:
        parts = ["+" + text(child, order) for child in ahead]
        parts += ["-" + text(child, order) for child in behind]
    else:
        parts = ["*" + _wrapped(child, order) for child in ahead]
        parts += ["/" + _wrapped(child, order) for child in behind]
    return "".join(parts)[1:]


def _wrapped(node: Node, order: dict[int, int] | None) -> str:
    return f"({text(node, order)})" if node[0] == SUM else text(node, order)


def _first(node: Node, order: dict[int, int] | None) -> int:
    if node[0] == NUMBER:
        return number(node)
    ahead, behind = sides(node)
    firsts = [_first(child, order) for child in ahead or behind]
    return min(firsts, key=order.__getitem__) if order else max(firsts)


@lru_cache(maxsize=1 << 15)
def ranked(numbers: Numbers, target: int) -> tuple[Node, ...]:
    """The solutions, simplest first: fewest parentheses, then divisions, then by their text."""
    every = solutions(numbers, (target, 1))
    return tuple(sorted(every, key=lambda node: _complexity(text(node))))


def _complexity(formula: str) -> tuple[int, int, int, str]:
    return formula.count("("), formula.count("/"), formula.count("-"), formula
