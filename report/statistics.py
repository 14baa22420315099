"""How sure a share of successes is, and a difference of two.

Input: counts, outcomes, or one number a seed; output: 95 % intervals and p-values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Z95 = 1.959963984540054  # the standard normal's 97.5 % point


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    JASA 22; equation as in Brown, Cai and DasGupta (2001), section 3.1.1.

    Args:
        successes: how many of the n succeeded; a share times n may carry rounding.
        n: how many were tried; 0 gives the whole range.

    Returns:
        (low, high), within [0, 1].

    Raises:
        ValueError: successes is not between 0 and n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}; it must lie between 0 and n = {n}")
    if n == 0:
        return 0.0, 1.0
    share = successes / n
    spread = 1 + Z95**2 / n
    center = (share + Z95**2 / (2 * n)) / spread
    half = Z95 / spread * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # At the ends the bound is exactly 0 or 1; rounding would leave 1e-17.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return low, high


def summarise(outcomes: Iterable[bool]) -> dict[str, Any]:
    """Success, n and interval of a list of outcomes, as `summary.json` spells them."""
    known = [bool(outcome) for outcome in outcomes]
    n, successes = len(known), sum(known)
    return {
        "success": successes / n if n else math.nan,
        "n": n,
        "interval": list(wilson(successes, n)),
    }


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two intervals [low, high] do not touch."""
    return one[1] < other[0] or other[1] < one[0]


@dataclass(frozen=True)
class OverSeeds:
    """A quantity measured once a training seed: its mean, range and Student's 95 % interval.

    interval is None for a single seed, which says nothing of other seeds.
    """

    mean: float
    low: float
    high: float
    n: int
    interval: tuple[float, float] | None


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Spread of one number a seed; t-interval of the mean with n − 1 degrees of freedom.

    Raises:
        ValueError: there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a spread over 0 seeds was asked for; it needs at least 1")
    mean = math.fsum(values) / n
    interval = None
    if n > 1:
        deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
        half = t975(n - 1) * deviation / math.sqrt(n)
        interval = (mean - half, mean + half)
    return OverSeeds(mean, min(values), max(values), n, interval)


def t975(freedom: int) -> float:
    """The 97.5 % point of Student's t; its tail by Abramowitz and Stegun 26.7.3 and 26.7.4."""
    low, high = 0.0, 13.0  # t975(1) = 12.7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _central(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def _central(t: float, freedom: int) -> float:
    """P(|T| <= t) for whole degrees of freedom: a finite series in the angle of t."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, term, total = math.cos(angle), 1.0, 0.0
    odd = freedom % 2
    for k in range((freedom - odd) // 2):
        total += term
        term *= cosine**2 * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * cosine * total)
    return math.sin(angle) * total


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided p of McNemar's exact test: discordant pairs as tosses of a fair coin.

    McNemar (1947), Psychometrika 12; the exact form is the binomial (sign) test.

    Args:
        only_first: pairs in which the first alone succeeded.
        only_second: pairs in which the second alone succeeded.

    Raises:
        ValueError: a count is negative.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"discordant pairs are {only_first} and {only_second}; none is below 0")
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n)  # whole numbers: exact until the division


def paired_bootstrap(
    differences: Sequence[float], resamples: int = 4000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a mean of paired differences (Efron 1979), pairs redrawn.

    Args:
        differences: one a pair, as success of one arm minus the other's on the same hand.
        resamples: how often all pairs are redrawn.
        seed: of the draws, so that a report says the same twice.

    Raises:
        ValueError: there is no pair.
    """
    values = np.asarray(differences, np.float64)
    if values.size == 0:
        raise ValueError("a bootstrap of 0 pairs was asked for; it needs at least 1")
    rng = np.random.default_rng(seed)
    drawn = [values[rng.integers(0, values.size, values.size)].mean() for _ in range(resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm 1979, step-down)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
