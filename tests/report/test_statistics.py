"""Intervals agree with SciPy's and behave at the edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, t, ttest_1samp

from report.statistics import (
    apart,
    clustered,
    holm,
    mcnemar,
    over_seeds,
    paired_interval,
    pass_at,
    passes_at,
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


def test_summarise_counts_rows_and_questions() -> None:
    found = summarise([True, False, True, True])
    assert (found["success"], found["n"], found["questions"]) == (0.75, 4, 4)
    assert found["interval"] == list(wilson(3, 4))
    assert math.isnan(summarise([])["success"])
    again = summarise([1, 0, 1, 1], ["a", "b", "a", "c"])
    assert (again["success"], again["n"], again["questions"]) == (0.75, 4, 3)
    assert again["interval"] == list(clustered([2, 0, 1], [2, 1, 1]))


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


def test_seeds_are_tested_as_scipy_does_and_only_where_they_can_be() -> None:
    values = [0.05, 0.2, 0.16, -0.02]
    found = over_seeds(values)
    assert found.p == pytest.approx(ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert over_seeds(values[:3]).p == pytest.approx(ttest_1samp(values[:3], 0).pvalue, rel=1e-9)
    two = over_seeds(values[:2])
    assert two.p is None
    assert two.interval is not None
    # Seeds that agree, to rounding, show no spread: neither an interval nor a test.
    for same in ([0.2, 0.2], [0.1 + 0.2, 0.3, 0.3]):
        assert (over_seeds(same).interval, over_seeds(same).p) == (None, None)


def test_intervals_over_seeds_stay_within_what_can_be() -> None:
    assert over_seeds([-0.9, -0.2], (-1.0, 1.0)).interval == (-1.0, 1.0)
    wide = over_seeds([0.9, 0.2], (0.0, 1.0)).interval
    assert wide == (0.0, 1.0)
    narrow = over_seeds([0.5, 0.51, 0.49], (0.0, 1.0)).interval
    assert narrow is not None
    assert 0 < narrow[0] < 0.5 < narrow[1] < 1


def draws(
    rng: np.random.Generator, kind: str, share: float, clusters: int, rows: int
) -> tuple[list[float], list[int]]:
    """Rows drawn with replacement from so many questions, each solved always, often or alike."""
    solved = {
        "always or never": lambda: (rng.random(clusters) < share).astype(float),
        "some more often": lambda: rng.beta(share, 1 - share, clusters),
        "all alike": lambda: np.full(clusters, share),
    }[kind]()
    sizes = rng.multinomial(rows, np.full(clusters, 1 / clusters))
    wins = rng.binomial(sizes, solved)
    return wins[sizes > 0].tolist(), sizes[sizes > 0].tolist()


@pytest.mark.parametrize("kind", ["always or never", "some more often", "all alike"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9])
def test_230_questions_in_1000_rows_are_covered_95_times_in_100(kind: str, share: float) -> None:
    rng = np.random.default_rng(6)
    covered = naive = 0
    for _ in range(1_500):
        wins, sizes = draws(rng, kind, share, 230, 1_000)
        low, high = clustered(wins, sizes)
        assert 0 <= low <= high <= 1
        covered += low <= share <= high
        low, high = wilson(sum(wins), sum(sizes))
        naive += low <= share <= high
    assert 0.92 <= covered / 1_500 <= 0.97
    if kind == "always or never":  # what rows counted as if each were a question would claim
        assert naive / 1_500 < 0.7


def test_rows_that_are_their_own_questions_have_wilsons_interval() -> None:
    wins = [1.0] * 70 + [0.0] * 130
    low, high = clustered(wins, [1] * 200)
    assert (low, high) == pytest.approx(wilson(70, 200), abs=0.002)
    # Ten plays of each are worth what one play is, where all ten end alike.
    assert clustered([10 * w for w in wins], [10] * 200) == pytest.approx((low, high))


def test_a_share_of_0_or_1_counts_questions_and_not_rows() -> None:
    assert clustered([0.0] * 20, [50] * 20)[1] == pytest.approx(wilson(0, 20)[1], rel=0.15)
    assert clustered([0.0] * 20, [50] * 20)[1] > 5 * wilson(0, 1000)[1]
    assert clustered([50.0] * 20, [50] * 20)[0] < 0.87
    # One question played 99 times and one played once are hardly more than one.
    assert clustered([0.0, 0.0], [99, 1])[1] > clustered([0.0, 0.0], [50, 50])[1]
    assert clustered([], []) == (0.0, 1.0)
    assert clustered([30.0], [40]) == wilson(0.75, 1)


@pytest.mark.parametrize(("totals", "counts"), [([2.0], [1]), ([-1.0], [3]), ([0.0], [0])])
def test_impossible_clusters_are_refused(totals: list[float], counts: list[int]) -> None:
    with pytest.raises(ValueError, match="between 0 and its rows"):
        clustered(totals, counts)


def test_paired_intervals_are_bonett_and_prices() -> None:
    # 30 pairs that only the first solved, 10 that only the second solved, of 100.
    gains = [1.0] * 30 + [-1.0] * 10 + [0.0] * 60
    one, other = 31 / 102, 11 / 102
    half = 1.984 * math.sqrt((one + other - (one - other) ** 2) / 101)
    low, high = paired_interval(gains, [1] * 100)
    assert (low, high) == pytest.approx((one - other - half, one - other + half), abs=1e-3)
    mirrored = paired_interval([-g for g in gains], [1] * 100)
    assert mirrored == pytest.approx((-high, -low))
    with pytest.raises(ValueError, match="0 pairs"):
        paired_interval([], [])


def test_no_paired_interval_has_zero_width_or_leaves_what_can_be() -> None:
    for gains in ([0.0] * 50, [1.0] * 50, [-1.0] * 3, [1.0]):
        low, high = paired_interval(gains, [1] * len(gains))
        assert -1 <= low < high <= 1
    assert paired_interval([0.0] * 50, [1] * 50)[0] < 0 < paired_interval([0.0] * 50, [1] * 50)[1]


def test_paired_intervals_cover_95_times_in_100_with_230_questions_in_1000_rows() -> None:
    rng = np.random.default_rng(7)
    covered = as_rows = 0
    for _ in range(1_500):
        sizes = rng.multinomial(1_000, np.full(230, 1 / 230))
        gain = rng.choice([1.0, 0.0, -1.0], 230, p=[0.3, 0.55, 0.15])
        kept = sizes > 0
        low, high = paired_interval(list((gain * sizes)[kept]), list(sizes[kept]))
        covered += low <= 0.15 <= high
        rows = np.repeat(gain, sizes)
        low, high = paired_interval(list(rows), [1] * len(rows))
        as_rows += low <= 0.15 <= high
    assert 0.92 <= covered / 1_500 <= 0.97
    assert as_rows / 1_500 < 0.75


def test_pass_at_k_agrees_with_every_choice_of_k_samples() -> None:
    for n in range(1, 8):
        for solved in range(n + 1):
            for k in range(1, n + 1):
                choices = list(itertools.combinations([i < solved for i in range(n)], k))
                expected = sum(any(choice) for choice in choices) / len(choices)
                assert pass_at(n, solved, k) == pytest.approx(expected)


def test_pass_at_k_of_questions_is_their_mean_where_they_have_the_samples() -> None:
    found = passes_at([(4, 1), (2, 2)], (1, 2, 4))
    assert [(k, p.share, p.questions) for k, p in found.items()] == [
        (1, pytest.approx((0.25 + 1) / 2), 2),
        (2, pytest.approx((0.5 + 1) / 2), 2),
    ]
    assert passes_at([], (1, 4)) == {}


@pytest.mark.parametrize(
    ("whole", "partial", "known"), [(63, 1, True), (9, 1, True), (8, 1, False)]
)
def test_a_failed_sample_costs_its_question_and_not_the_figure(
    whole: int, partial: int, known: bool
) -> None:
    found = passes_at([(16, 0)] * whole + [(15, 15)] * partial, (1, 16))
    assert found[1][:2] == (pytest.approx(partial / (whole + partial)), whole + partial)
    assert (16 in found) == known
    assert not known or found[16][:2] == (0.0, whole)


def test_the_interval_of_pass_at_k_is_over_questions() -> None:
    tallies = [(16, solved) for solved in (0, 1, 2, 4, 8, 16) * 5]
    found = passes_at(tallies, (1, 16))
    counts = [16.0 if solved else 0.0 for _, solved in tallies], [16] * 30
    assert found[16].interval == clustered(*counts), "a question is solved within 16 or it is not"
    assert found[1].interval == clustered([solved for _, solved in tallies], [16] * 30)
    always = passes_at([(16, 9)] * 64, (16,))[16].interval
    assert always == clustered([16] * 64, [16] * 64), "a question counts once where all are alike"
    assert always == (pytest.approx(0.94, abs=0.005), 1.0)


def test_the_interval_of_pass_at_k_covers_it() -> None:
    """Of questions from a population where each has its own share, 19 of 20 hold its mean."""
    rng = np.random.default_rng(0)
    chances = rng.beta(0.3, 0.7, 20_000)
    for k in (1, 4, 16):
        true = float(np.mean(1 - (1 - chances) ** k))
        covered = 0
        for _ in range(200):
            drawn = rng.binomial(16, rng.choice(chances, 64))
            low, high = passes_at([(16, int(c)) for c in drawn], (k,))[k].interval
            covered += low <= true <= high
        assert 0.91 <= covered / 200 <= 0.99, k


def test_pass_at_k_is_unbiased_where_the_plug_in_is_not() -> None:
    rng = np.random.default_rng(8)
    drawn = rng.binomial(16, 0.2, 4_000)
    estimate = np.mean([pass_at(16, int(c), 4) for c in drawn])
    assert estimate == pytest.approx(1 - 0.8**4, abs=0.01)
    assert np.mean(1 - (1 - drawn / 16) ** 4) < estimate - 0.005


@pytest.mark.parametrize(("n", "solved", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)])
def test_impossible_passes_are_refused(n: int, solved: int, k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k} of {n} samples, {solved} right"):
        pass_at(n, solved, k)


def test_holm_by_hand() -> None:
    # Four tests: 0.005 × 4, 0.01 × 3, 0.03 × 2, 0.04 × 1 raised to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("totals", "rows", "low", "high"),
    [
        ([2, 0, 1, 4, 3], 4, 0.150, 0.850),  # few clusters: Student's t, and n / (n - 1)
        ([2, 2, 1, 2, 3], 4, 0.236, 0.764),  # alike: worth no more than their rows
    ],
)
def test_few_clusters_have_wide_intervals(totals, rows, low, high):
    assert clustered(totals, [rows] * len(totals)) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("n", [15, 25, 27, 28, 31])
def test_no_p_is_below_0(n: int) -> None:
    """Rounding left −2e-16 of these."""
    for ratio in (20, 50, 100):
        half = (n - 1) ** 0.5 / ratio
        p = over_seeds([1 + half * (-1) ** k for k in range(n)]).p
        assert p is not None
        assert p >= 0
