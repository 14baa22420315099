"""Weights of an answer's tokens: the coefficient before its final `"key":`, 1 from it on.

Input: token ids and a decoder. Output: a factor for each token (`ppo.thought_coef`, as in the
study's released code).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_KEY = re.compile(r"""(["'])\w[\w ]*\1\s*:""")


def reasoning_weights(
    answer: Sequence[int], decode: Callable[[Sequence[int]], str], coefficient: float
) -> NDArray[np.float32]:
    """Weights float32 [A]: the coefficient before the last `"key":` of the answer, 1 from it on.

    An answer without such a key (a bare formula) has no reasoning: all ones.
    """
    weights = np.ones(len(answer), np.float32)
    keys = list(_KEY.finditer(decode(answer)))
    if keys:
        begin = keys[-1].start()
        low, high = 0, len(answer)  # the longest prefix whose text ends at or before the key
        while low < high:
            middle = (low + high + 1) // 2
            if len(decode(answer[:middle])) <= begin:
                low = middle
            else:
                high = middle - 1
        weights[:low] = coefficient
    return weights
