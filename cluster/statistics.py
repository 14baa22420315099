"""How sure a share of successes is.

Comes in: counts or outcomes; goes out: shares with 95 % intervals. Knows nothing of runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

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
