"""Intervals agree with SciPy's and behave at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from cluster.statistics import apart, summarise, wilson


def test_wilson_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    for n in [1, 2, 3, 18, 234, 512, *rng.integers(1, 5_000, 60)]:
        for successes in {0, int(n), int(n) // 2, int(rng.integers(0, n + 1))}:
            reference = binomtest(successes, int(n)).proportion_ci(0.95, method="wilson")
            low, high = wilson(successes, int(n))
            assert low == pytest.approx(reference.low, abs=1e-12)
            assert high == pytest.approx(reference.high, abs=1e-12)


def test_wilson_covers_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    draws = rng.binomial(200, 0.3, 4_000)
    covered = sum(low <= 0.3 <= high for low, high in (wilson(int(k), 200) for k in draws))
    assert 0.935 < covered / 4_000 < 0.965


def test_the_ends_are_exact() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    assert 0 < wilson(0, 50)[1] < 0.08


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (1, 0)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"successes is {successes}; .* n = {n}"):
        wilson(successes, n)


def test_summarise_counts() -> None:
    found = summarise([True, False, True, True])
    assert (found["success"], found["n"]) == (0.75, 4)
    assert found["interval"] == list(wilson(3, 4))
    assert math.isnan(summarise([])["success"])


def test_apart() -> None:
    assert apart([0.1, 0.2], [0.3, 0.4])
    assert apart([0.3, 0.4], [0.1, 0.2])
    assert not apart([0.1, 0.3], [0.3, 0.4])
