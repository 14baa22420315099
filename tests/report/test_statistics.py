"""Intervals agree with SciPy's and behave at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap, t, ttest_1samp

from report.statistics import (
    apart,
    holm,
    mcnemar,
    over_seeds,
    paired_bootstrap,
    summarise,
    t975,
    wilson,
)


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


def test_mcnemar_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    pairs = [(0, 0), (0, 1), (7, 7), (0, 900), *rng.integers(0, 400, (60, 2)).tolist()]
    for one, other in pairs:
        reference = binomtest(one, one + other).pvalue if one + other else 1.0
        assert mcnemar(one, other) == pytest.approx(reference, rel=1e-9, abs=1e-300)
    with pytest.raises(ValueError, match="-1 and 3"):
        mcnemar(-1, 3)


def test_mcnemar_rejects_at_most_5_times_in_100_where_nothing_differs() -> None:
    rng = np.random.default_rng(3)
    heads = rng.binomial(60, 0.5, 4_000)
    assert np.mean([mcnemar(int(k), 60 - int(k)) < 0.05 for k in heads]) <= 0.05


def test_students_quantile_agrees_with_scipy() -> None:
    for freedom in range(1, 60):
        assert t975(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-9)


def test_spread_over_seeds_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    for n in range(2, 12):
        values = rng.normal(0.3, 0.1, n)
        found, reference = over_seeds(list(values)), ttest_1samp(values, 0).confidence_interval()
        assert found.interval == pytest.approx((reference.low, reference.high), rel=1e-9)
        assert (found.low, found.high, found.n) == (values.min(), values.max(), n)
    assert over_seeds([0.25]).interval is None
    with pytest.raises(ValueError, match="0 seeds"):
        over_seeds([])


def test_paired_bootstrap_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    for n in (40, 234):
        differences = rng.choice([-1.0, 0.0, 1.0], n, p=[0.1, 0.6, 0.3])
        reference = bootstrap(
            (differences,), np.mean, n_resamples=4000, method="percentile", rng=rng
        ).confidence_interval
        assert paired_bootstrap(list(differences)) == pytest.approx(
            (reference.low, reference.high), abs=3 / n
        )
    with pytest.raises(ValueError, match="0 pairs"):
        paired_bootstrap([])


def test_holm_by_hand() -> None:
    # Four tests: 0.005 × 4, 0.01 × 3, 0.03 × 2, 0.04 × 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
