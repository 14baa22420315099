"""How sure a share of successes is, and a difference of two.

Input: counts, outcomes, or one number per seed; output: 95 % intervals and p-values.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from configs.primary import MIN_SEEDS

Z95 = 1.959963984540054  # the standard normal's 97.5 % point
ROUNDING = 1e-12  # seeds that differ by less agree
ENOUGH = 0.9  # of the questions, for a pass@k of those that have k samples


def wilson(successes: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference",
    JASA 22; equation as in Brown, Cai and DasGupta (2001), section 3.1.1.

    Args:
        successes: how many of the n succeeded; a share times n may carry rounding.
        n: how many were tried; 0 gives the whole range. An effective number may be a fraction.

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


def clustered(totals: Sequence[float], counts: Sequence[int]) -> tuple[float, float]:
    """95 % interval of a share whose rows come in clusters, as episodes of one hand or route do.

    Wilson's interval at the effective sample size: rows divided by the design effect, which is
    the ratio estimator's linearised variance over the binomial one (Cochran 1977, "Sampling
    Techniques", section 11.12), with Student's point of clusters − 1 degrees of freedom in the
    place of the normal's, and never more than the rows there are (Korn and Graubard 1998, Survey
    Methodology 24; compared by Franco et al. 2019, JSSAM 7). Where all rows are alike no variance
    is seen: then a cluster counts as one row.

    Args:
        totals: sum of a cluster's outcomes, each from 0 to 1.
        counts: rows of a cluster.

    Raises:
        ValueError: a total is not between 0 and its cluster's rows.
    """
    sums, sizes = np.asarray(totals, np.float64), np.asarray(counts, np.float64)
    if not ((sums >= 0) & (sums <= sizes) & (sizes > 0)).all():
        raise ValueError("a cluster's total must lie between 0 and its rows, of which it needs 1")
    clusters, rows = len(sums), float(sizes.sum())
    if clusters < 2:
        return wilson(float(sums.sum()) / max(rows, 1.0) * clusters, clusters)
    share = float(sums.sum()) / rows
    # Unequal clusters are worth as many equal ones (Kish 1965), each of them one row at least.
    worth = rows**2 / float((sizes**2).sum())
    effective = min(rows, worth)
    variance = _ratio_variance(sums, sizes)
    if 0 < share < 1 and variance > 0:
        effective = min(rows, share * (1 - share) / variance)
    effective *= min(1.0, (Z95 / t975(clusters - 1)) ** 2)
    return wilson(share * effective, effective)


def _ratio_variance(totals: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Linearised variance of sum(totals) / sum(sizes) over clusters (Cochran 1977, 6.4)."""
    clusters = len(totals)
    residuals = totals - totals.sum() / sizes.sum() * sizes
    return float(clusters / (clusters - 1) * (residuals**2).sum() / sizes.sum() ** 2)


def paired_interval(gains: Sequence[float], counts: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean paired difference of shares, clustered by question, within ±1.

    The adjusted Wald interval of Bonett and Price (2012), J. Educ. Behav. Stat. 37: one pair that
    only the first solved and one that only the second solved are added, so that no interval has
    zero width. Here a pair is a cluster, and its variance is linearised as in `clustered`.

    Args:
        gains: a question's sum of differences, first minus second, one per row.
        counts: rows of a question.

    Raises:
        ValueError: there is no question.
    """
    if not len(gains):
        raise ValueError("an interval of 0 pairs was asked for; it needs at least 1")
    typical = math.fsum(counts) / len(counts)
    sums = np.array([*gains, typical, -typical], np.float64)
    sizes = np.array([*counts, typical, typical], np.float64)
    center = float(sums.sum() / sizes.sum())
    half = t975(len(sums) - 1) * math.sqrt(_ratio_variance(sums, sizes))
    return max(-1.0, center - half), min(1.0, center + half)


class PassAt(NamedTuple):
    """share: pass@k; questions: how many it is the mean over; interval: 95 % of share over them."""

    share: float
    questions: int
    interval: tuple[float, float]


def pass_at(samples: int, solved: int, k: int) -> float:
    """Unbiased estimate that at least one of k samples solves, from samples of which some do.

    1 − C(n − c, k) / C(n, k): Chen et al. (2021), "Evaluating Large Language Models Trained on
    Code", arXiv 2107.03374, equation 1.

    Raises:
        ValueError: k is not between 1 and samples, or solved not between 0 and samples.
    """
    if not (1 <= k <= samples and 0 <= solved <= samples):
        raise ValueError(
            f"pass@{k} of {samples} samples, {solved} right: 1 to {samples} can be asked for"
        )
    return 1.0 - math.comb(samples - solved, k) / math.comb(samples, k)


def passes_at(tallies: Collection[tuple[int, int]], ks: Iterable[int]) -> dict[int, PassAt]:
    """pass@k by k, the mean over the questions that have k samples, where ENOUGH of them do.

    Args:
        tallies: of each question, its samples and how many of them solved it.
        ks: numbers of samples.
    """
    found = {k: [pass_at(n, solved, k) for n, solved in tallies if n >= k] for k in ks}
    rows = max((n for n, _ in tallies), default=1)  # at k = 1 as of the share of samples
    return {
        k: PassAt(math.fsum(each) / len(each), len(each), over_questions(each, rows))
        for k, each in found.items()
        if each and len(each) >= ENOUGH * len(tallies)
    }


def over_questions(shares: Sequence[float], rows: int) -> tuple[float, float]:
    """95 % interval of the mean of one share a question, each of so many rows (`clustered`)."""
    return clustered([share * rows for share in shares], [rows] * len(shares))


def summarise(
    outcomes: Iterable[float], questions: Iterable[Hashable] | None = None
) -> dict[str, Any]:
    """Success, n, questions and interval, as an evaluation's record has them.

    Args:
        outcomes: one per row, from 0 to 1.
        questions: the hand or route of each row, in which rows cluster; None: each its own.
    """
    known = [float(outcome) for outcome in outcomes]
    named = range(len(known)) if questions is None else questions
    groups: dict[Hashable, list[float]] = {}
    for question, outcome in zip(named, known, strict=True):
        groups.setdefault(question, []).append(outcome)
    n, total = len(known), math.fsum(known)
    sums, counts = [math.fsum(g) for g in groups.values()], [len(g) for g in groups.values()]
    interval = wilson(total, n) if len(groups) == n else clustered(sums, counts)
    success = total / n if n else math.nan
    return {"success": success, "n": n, "questions": len(groups), "interval": list(interval)}


def apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two intervals [low, high] do not touch."""
    return one[1] < other[0] or other[1] < one[0]


@dataclass(frozen=True)
class OverSeeds:
    """A quantity measured once a training seed: its mean, range and Student's 95 % interval.

    interval: None for a single seed, and where all agree to rounding: no spread is known then.
    p: two-sided, that the mean is 0 (Student's t, n − 1 degrees of freedom); None where the
    interval is, and below 3 seeds, whose spread is a guess.
    """

    mean: float
    low: float
    high: float
    n: int
    interval: tuple[float, float] | None
    p: float | None


def over_seeds(
    values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> OverSeeds:
    """Spread of one number per seed.

    Args:
        values: one per seed.
        bounds: what the mean can be at all; the interval stays within.

    Raises:
        ValueError: there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a spread over 0 seeds was asked for; it needs at least 1")
    mean = math.fsum(values) / n
    interval, p = None, None
    if n > 1 and max(values) - min(values) > ROUNDING:
        error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
        half = t975(n - 1) * error
        interval = (max(bounds[0], mean - half), min(bounds[1], mean + half))
        if n >= MIN_SEEDS:
            p = max(0.0, 1.0 - _central(abs(mean) / error, n - 1))  # rounding may leave -2e-16
    return OverSeeds(mean, min(values), max(values), n, interval, p)


@cache
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


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm 1979, step-down)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected
