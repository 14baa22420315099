"""How far the figure of few tokens may pass a limit that is meant for many.

Without torch, for the trajectory buffer, which compares new engines with others.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

LEAST_TOKENS = 64  # of an engine that is looked at alone
N = TypeVar("N", float, NDArray[np.float64])


def slack(tokens: N) -> N:
    """The factor by which one engine's figure, a mean of n tokens, may pass a run's limit.

    Gaps with a mean of 0.6 limits and a deviation of 2 (of rounding, a tenth of that) have a mean
    over n tokens that is (8 + 0.4 √n) / 2 of its own deviations below the limit times this factor:
    5.6 at LEAST_TOKENS, where the factor is 2.
    """
    return 1 + 8 / tokens**0.5
