"""Comparisons pair the same hands, agree with SciPy, and never say more than they carry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from report.statistics import over_seeds
from report.study.findings import Comparison, claims
from report.study.results import read_study
from tests.support.example_study import ENDS, make_study


def by_text(folder: Path, words: str) -> dict[str, Comparison]:
    found = next(claim for claim in claims(read_study(folder)) if words in claim.text)
    return {c.variant: c for c in found.comparisons}


def test_a_comparison_agrees_with_scipy(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=120))
    found = by_text(tmp_path, "better than its own SFT")["all_5"]
    gains = []
    for seed in study.seeds:
        one, other = study.last("sft_ppo", seed, "all_5"), study.last("sft", seed, "all_5")
        assert one is not None
        assert other is not None
        gains.append([one.outcomes[h] - other.outcomes[h] for h in sorted(one.outcomes)])
    table = np.array(gains)
    assert found.difference == pytest.approx(table.mean())
    interval = ttest_1samp(table.mean(1), 0).confidence_interval()
    assert found.seeds.interval == pytest.approx((interval.low, interval.high))
    total = table.sum(0)
    wins, losses = int((total > 0).sum()), int((total < 0).sum())
    assert found.p == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert found.p_holm >= found.p
    assert found.interval[0] < found.difference < found.interval[1]


def test_clear_effects_hold_and_none_is_not_claimed(tmp_path: Path) -> None:
    make_study(tmp_path, n=300, ends=ENDS | {"sft_ppo": (0.70, 0.40)})
    assert {c.verdict for c in by_text(tmp_path, "better than its own").values()} == {"higher"}
    nothing = make_study(
        tmp_path / "none",
        {"sft": {}, "sft_ppo": {"from": "sft"}},
        n=300,
        ends=ENDS | {"sft_ppo": ENDS["sft"]},
    )
    same = by_text(nothing, "better than its own SFT")
    assert not {c.verdict for c in same.values()} & {"higher", "lower"}


@pytest.mark.parametrize(
    ("seeds", "interval", "p", "verdict"),
    [
        ([0.2, 0.2, 0.21], (0.1, 0.3), 0.001, "higher"),
        ([0.05, 0.2, 0.5], (0.1, 0.3), 0.001, "higher in these runs"),
        ([0.2], (0.1, 0.3), 0.001, "higher in these runs"),
        ([0.2, 0.2, 0.21], (0.1, 0.3), 0.06, "not shown"),
        ([0.2, 0.2, 0.21], (-0.01, 0.3), 0.01, "not shown"),
    ],
)
def test_a_verdict_needs_pairs_and_seeds(
    seeds: list[float], interval: tuple[float, float], p: float, verdict: str
) -> None:
    found = Comparison("a", "b", "v", 100, 0.5, 0.3, interval, over_seeds(seeds), p, p)
    assert found.verdict == verdict


def test_an_arm_from_a_step_is_compared_with_that_step(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=50)
    file = tmp_path / "study.yaml"
    last = by_text(tmp_path, "better than its own SFT")["all_5"].second_share
    text = file.read_text()
    at = text.index("sft_ppo")
    file.write_text(text[:at] + text[at:].replace("at: null", "at: 200"))
    early = by_text(tmp_path, "better than its own SFT")["all_5"].second_share
    study = read_study(tmp_path)
    points = [p for s in study.seeds for p in study.at("sft", s, "all_5") if p.step == 200]
    assert early == pytest.approx(sum(p.success for p in points) / 3)
    assert early != last


def test_rl_is_compared_with_sft_from_the_same_model_and_no_other(tmp_path: Path) -> None:
    arms = {"sft": {}, "sft_long": {"from": "sft"}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path, arms, n=50, ends=ENDS | {"sft_long": (0.6, 0.1)})
    found = by_text(tmp_path, "RL (sft_ppo) generalises better than SFT (")
    assert {(c.first, c.second) for c in found.values()} == {("sft_ppo", "sft_long")}
    texts = [claim.text for claim in claims(read_study(tmp_path))]
    assert not any("than SFT (sft) from the same" in text for text in texts)
