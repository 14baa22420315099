"""Comparisons pair the same questions, agree with SciPy, and never say more than they carry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from configs.primary import Primary
from report.statistics import holm, over_seeds
from report.study import curves
from report.study.findings import Claim, Comparison, Findings, Side, _corrected, findings
from report.study.results import OUTCOMES, Arm, read_study, run_folder
from report.study.verdicts import claims
from tests.report.study.drawing import panels, point, study_of
from tests.support.example_study import ARMS, ENDS, SAME_COMPUTE, make_study

OWN = "better than its own SFT"
PRIMARY = [
    {"arm": "sft_ppo", "against": "sft_long", "variant": "all_5", "measure": "success"},
    {"arm": "sft_long", "against": "start", "variant": "all_5", "measure": "success"},
    {"arm": "sft_ppo", "against": "sft", "variant": "all_5", "measure": "success"},
]


def found_in(folder: Path) -> Findings:
    return findings(read_study(folder))


def by_text(folder: Path, words: str) -> dict[str, Comparison]:
    found = next(claim for claim in found_in(folder).claims if words in claim.text)
    return {c.variant: c for c in found.comparisons}


def comparison(
    seeds: list[float],
    interval: tuple[float, float] = (0.1, 0.3),
    p_holm: float = 0.001,
    primary: bool = True,
    shares: tuple[float, float] = (0.5, 0.3),
    flops: tuple[float | None, float | None] = (1e9, 1e9),
    second: str = "b",
) -> Comparison:
    sides = [Side(n, "end", s, f) for n, s, f in zip(("a", second), shares, flops, strict=True)]
    spread = over_seeds(seeds, (-1.0, 1.0))
    return Comparison(*sides, "v", "success", primary, 100, 100, interval, spread, 0.0001, p_holm)


def test_a_comparison_agrees_with_scipy(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=120, primary=PRIMARY))
    found = by_text(tmp_path, OWN)["rule_11_12_13"]
    gains = []
    for seed in study.seeds:
        one = study.last("sft_ppo", seed, "rule_11_12_13")
        other = study.last("sft", seed, "rule_11_12_13")
        assert one is not None
        assert other is not None
        mine, theirs = one.measures["success"], other.measures["success"]
        gains.append([mine[q].mean - theirs[q].mean for q in sorted(mine)])
    table = np.array(gains)
    assert found.difference == pytest.approx(table.mean())
    reference = ttest_1samp(table.mean(1), 0)
    interval = reference.confidence_interval()
    assert found.seeds.interval == pytest.approx((interval.low, interval.high))
    total = table.sum(0)
    wins, losses = int((total > 0).sum()), int((total < 0).sum())
    assert found.p == found.p_questions == pytest.approx(binomtest(wins, wins + losses).pvalue)
    assert found.interval[0] < found.difference < found.interval[1]
    primary = found_in(tmp_path).primary[2]
    assert primary.p == primary.seeds.p
    assert primary.p != primary.p_questions


def test_primary_comparisons_are_tested_over_seeds_and_corrected_together(tmp_path: Path) -> None:
    found = found_in(make_study(tmp_path, n=60, primary=PRIMARY))
    assert [(c.first.arm, c.second.arm) for c in found.primary] == [
        ("sft_ppo", "sft_long"),
        ("sft_long", "start"),
        ("sft_ppo", "sft"),
    ]
    p = [c.seeds.p for c in found.primary]
    assert [c.p_holm for c in found.primary] == pytest.approx(
        holm([1.0 if q is None else q for q in p])
    )
    assert found.waiting == {}
    # In claims the same comparison stands as primary, every other one as exploratory.
    shown = [c for claim in found.claims for c in claim.comparisons]
    assert {c for c in shown if c.primary} == set(found.primary)
    others = [c for c in shown if not c.primary]
    assert [c.p_holm for c in others] == pytest.approx(holm([c.p_questions for c in others]))
    assert {r["kind"] for r in found.rows} == {"primary", "exploratory"}
    assert [r["claim"] for r in found.rows[:3]] == ["primary comparison"] * 3


def test_a_primary_comparison_that_is_not_measured_yet_counts_in_the_correction(
    tmp_path: Path,
) -> None:
    make_study(tmp_path, n=60, primary=PRIMARY)
    before = found_in(tmp_path).primary[0].p_holm
    for seed in (0, 1, 2):
        (run_folder(tmp_path, "sft", seed) / "status.json").unlink()
    found = found_in(tmp_path)
    assert found.waiting == {Primary("sft_ppo", "sft", "all_5", "success"): "not finished"}
    assert found.primary[0].p_holm >= before
    p = [c.seeds.p for c in found.primary]
    assert found.primary[0].p_holm == holm([*(1.0 if q is None else q for q in p), 1.0])[0]


def test_clear_effects_hold_and_none_is_not_claimed(tmp_path: Path) -> None:
    ends = ENDS | {"sft_ppo": (0.70, 0.40)}
    make_study(tmp_path, n=200, ends=ends, primary=PRIMARY, ppo_tokens=SAME_COMPUTE)
    found = by_text(tmp_path, "RL (sft_ppo) generalises better than SFT (sft_long)")
    assert found["all_5"].against("higher") == "holds"
    assert found["rule_11_12_13"].against("higher") == "as expected in these runs: higher"
    nothing = make_study(
        tmp_path / "none",
        {"sft": {}, "sft_ppo": {"from": "sft"}},
        n=300,
        ends=ENDS | {"sft_ppo": ENDS["sft"]},
    )
    same = by_text(nothing, OWN)
    assert not {c.verdict for c in same.values()} & {"higher", "lower"}


@pytest.mark.parametrize(
    ("seeds", "interval", "p", "verdict"),
    [
        ([0.2, 0.2, 0.21], (0.1, 0.3), 0.001, "higher"),
        ([-0.2, -0.2, -0.21], (-0.3, -0.1), 0.001, "lower"),
        ([0.05, 0.2, 0.5], (0.1, 0.3), 0.001, "not shown"),
        ([0.2, 0.2, 0.21], (0.1, 0.3), 0.05, "not shown"),
        ([0.2, 0.2, 0.21], (0.1, 0.3), 0.049, "higher"),
        ([0.2, 0.2, 0.21], (-0.01, 0.3), 0.001, "not shown"),
        ([0.2], (0.1, 0.3), 0.001, "cannot be judged: 1 training seed, a test over seeds needs 3"),
        (
            [0.2, 0.21],
            (0.1, 0.3),
            0.001,
            "cannot be judged: 2 training seeds, a test over seeds needs 3",
        ),
        (
            [0.2, 0.2, 0.2],
            (0.1, 0.3),
            0.001,
            "cannot be judged: all seeds agree exactly, so their spread says nothing",
        ),
    ],
)
def test_a_primary_verdict_needs_seeds_and_questions(
    seeds: list[float], interval: tuple[float, float], p: float, verdict: str
) -> None:
    shares = (0.5, 0.3) if seeds[0] > 0 else (0.3, 0.5)
    assert comparison(seeds, interval, p, shares=shares).verdict == verdict


@pytest.mark.parametrize(
    ("interval", "p", "verdict"),
    [
        ((0.1, 0.3), 0.001, "as expected in these runs: higher"),
        ((0.1, 0.3), 0.06, "not shown"),
        ((-0.01, 0.3), 0.001, "not shown"),
    ],
)
def test_an_exploratory_verdict_speaks_of_these_runs_only(
    interval: tuple[float, float], p: float, verdict: str
) -> None:
    # p_questions is far below 0.05 in each: the corrected p decides.
    for seeds in ([0.2], [0.2, 0.2], [0.2, 0.2, 0.21]):
        assert comparison(seeds, interval, p, primary=False).against("higher") == verdict


def test_the_opposite_is_never_called_holds() -> None:
    for primary in (True, False):
        found = comparison([0.2, 0.2, 0.21], primary=primary)
        assert found.verdict == "higher"
        assert found.against("lower").startswith("the opposite")
        assert "holds" not in found.against("lower")
        assert "opposite" not in found.against("higher")
    lower = comparison([-0.2, -0.2, -0.21], (-0.3, -0.1), shares=(0.3, 0.5))
    assert (lower.against("lower"), lower.against("higher")) == ("holds", "the opposite: lower")


def test_nothing_against_nothing_is_nothing_to_compare() -> None:
    for primary in (True, False):
        found = comparison([0.0, 0.0, 0.0], (-0.1, 0.1), 1.0, primary, (0.0, 0.0))
        assert found.verdict == found.against("higher") == "nothing to compare: both are 0"
    assert comparison([0.0, 0.01, 0.02], (-0.1, 0.1), 1.0, shares=(0.5, 0.5)).verdict == "not shown"


@pytest.mark.parametrize(
    ("flops", "words", "verdict"),
    [
        ((1.0e9, 1.0e9), "", "holds"),
        ((1.1e9, 1.0e9), "", "holds"),
        ((1.7e9, 1.0e9), "a spent 1.7 times the FLOPs of b", None),
        ((1.0e9, 1.2e9), "b spent 1.2 times the FLOPs of a", None),
        ((None, 1.0e9), "the FLOPs of a are not known", None),
        ((1.0e9, None), "the FLOPs of b are not known", None),
    ],
)
def test_other_compute_is_said_and_nothing_holds(
    flops: tuple[float | None, float | None], words: str, verdict: str | None
) -> None:
    found = comparison([0.2, 0.2, 0.21], flops=flops)
    assert found.compute == words
    assert found.against("higher") == (verdict or "higher, but not at the same compute")
    assert found.row()["compute"] == words


def test_against_the_initial_model_compute_is_said_and_is_no_objection() -> None:
    found = comparison([0.2, 0.2, 0.21], flops=(3e9, 0.0), second="start")
    assert found.compute == "a spent 3.0e+09 FLOPs, start none"
    assert found.against("higher") == "holds"
    assert found.label == "a at end − the initial model"


def test_an_arm_from_a_step_is_compared_with_that_step_and_says_so(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=50)
    file = tmp_path / "study.yaml"
    last = by_text(tmp_path, OWN)["all_5"]
    assert last.label == "sft_ppo at PPO update 20 − sft at SFT step 800"
    text = file.read_text()
    at = text.index("sft_ppo")
    file.write_text(text[:at] + text[at:].replace("at: null", "at: 200"))
    early = by_text(tmp_path, OWN)["all_5"]
    assert early.label == "sft_ppo at PPO update 20 − sft at SFT step 200"
    study = read_study(tmp_path)
    points = [p for s in study.seeds for p in study.at("sft", s, "all_5") if p.step == 200]
    assert early.second.share == pytest.approx(sum(p.success for p in points) / 3)
    assert early.second.share != last.second.share
    assert early.second.flops == points[0].flops
    assert early.row()["second_at"] == "SFT step 200"


def test_rl_is_compared_with_sft_from_the_same_model_and_no_other(tmp_path: Path) -> None:
    arms = {"sft": {}, "sft_long": {"from": "sft"}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path, arms, n=50, ends=ENDS | {"sft_long": (0.6, 0.1)})
    found = by_text(tmp_path, "RL (sft_ppo) generalises better than SFT (")
    assert {(c.first.arm, c.second.arm) for c in found.values()} == {("sft_ppo", "sft_long")}
    texts = [claim.text for claim in found_in(tmp_path).claims]
    assert not any("than SFT (sft) from the same" in text for text in texts)


def test_what_each_claim_expects(tmp_path: Path) -> None:
    found = found_in(make_study(tmp_path, n=20))
    expected = {claim.text: claim.expected for claim in found.claims}
    assert expected["SFT (sft) learns the training rule"] == "higher"
    assert expected["SFT (sft) loses what is new to it"] == "lower"
    assert expected["RL (sft_ppo) generalises better than its own SFT"] == "higher"
    assert expected["RL without SFT (ppo_only) ends below RL with it (sft_ppo)"] == "lower"
    assert expected["RL from an overfitted SFT (overfit_ppo) ends below sft_ppo"] == "lower"
    inside = by_text(tmp_path, "improves on its SFT in distribution")
    assert list(inside) == ["train", "held_out"]
    assert list(by_text(tmp_path, OWN)) == ["rule_11_12_13", "all_5", "red_suits"]


def test_an_unfinished_run_stands_in_no_comparison(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"sft": {}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path, arms, n=30)
    assert by_text(tmp_path, OWN)["all_5"].seeds.n == 3
    run = run_folder(tmp_path, "sft_ppo", 1)
    (run / "status.json").write_text('{"status": "interrupted", "cause": "Ctrl-C"}')
    assert by_text(tmp_path, OWN)["all_5"].seeds.n == 2
    for seed in (0, 2):
        (run_folder(tmp_path, "sft_ppo", seed) / "status.json").unlink()
    assert not any("sft_ppo" in claim.text for claim in found_in(tmp_path).claims)


def rewrite(run: Path, change: Any) -> None:
    rows = [json.loads(line) for line in (run / OUTCOMES).read_text().splitlines()]
    rows = [row for old in rows for row in change(old)]
    (run / OUTCOMES).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_pairs_are_questions_and_not_rows(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=60, seeds=(0, 1, 2))
    by_row = by_text(tmp_path, OWN)["all_5"]
    for file in tmp_path.glob("*/seed*"):
        rewrite(file, lambda row: [row | {"question": f"hand {row['seed'] % 15}"}])
    by_question = by_text(tmp_path, OWN)["all_5"]
    assert (by_row.questions, by_question.questions) == (60, 15)
    assert by_row.rows == by_question.rows == 180
    assert by_question.difference == pytest.approx(by_row.difference)
    assert by_question.p_questions != by_row.p_questions
    for file in tmp_path.glob("*/seed*"):  # the same rows once more: nothing new is known
        rewrite(file, lambda row: [row, row | {"seed": row["seed"] + 10_000}])
    twice = by_text(tmp_path, OWN)["all_5"]
    assert (twice.questions, twice.rows) == (15, 360)
    assert twice.interval == pytest.approx(by_question.interval)
    assert twice.p_questions == by_question.p_questions


def test_only_questions_that_both_played_are_compared(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=40)
    for seed in (0, 1, 2):
        rewrite(
            run_folder(tmp_path, "sft", seed),
            lambda row: [row] if row["seed"] < 900_025 else [],
        )
    assert by_text(tmp_path, OWN)["all_5"].questions == 25


def test_greedy_answers_decide_where_there_are_any(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {"sft": {}, "sft_ppo": {"from": "sft"}}
    make_study(tmp_path, arms, n=60, samples=2)
    found = by_text(tmp_path, OWN)["all_5"]
    study = read_study(tmp_path)
    ends = study.ends("sft_ppo", "all_5")
    assert found.rows == 180
    assert found.first.share == pytest.approx(np.mean([p.success for p in ends]))
    assert found.first.share != pytest.approx(np.mean([p.sampled for p in ends]))


def test_primary_comparisons_of_another_measure_and_claims_about_it(tmp_path: Path) -> None:
    primary = [PRIMARY[0] | {"measure": "first_try"}]
    found = found_in(make_study(tmp_path, ARMS, n=60, primary=primary))
    shares = [found.primary[0].first.share, found.primary[0].second.share]
    study = read_study(tmp_path)
    ends = [study.ends(arm, "all_5") for arm in ("sft_ppo", "sft_long")]
    assert shares == pytest.approx([np.mean([p.share("first_try") for p in e]) for e in ends])
    assert {c.measure for claim in found.claims for c in claim.comparisons} == {"first_try"}


def test_claims_without_a_comparison_are_left_out() -> None:
    assert _corrected([Claim("nothing to say", "higher", [])]) == []


def test_greedy_answers_are_not_compared_with_sampled_ones(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=20, seeds=(0, 1))
    for name, seed in (("sft", 0), ("sft", 1), ("sft_ppo", 0)):
        change = {"decoding": "greedy"}
        rewrite(run_folder(tmp_path, name, seed), lambda row, change=change: [row | change])
    assert by_text(tmp_path, OWN)["all_5"].seeds.n == 1  # seed 0, greedy on both sides


def test_arms_with_other_numbers_of_tries_are_compared_by_the_first_answer(tmp_path: Path) -> None:
    arms: dict[str, dict[str, Any]] = {
        "sft": {"verify_iter": 1},
        "sft_ppo": {"from": "sft", "verify_iter": 5},
    }
    primary = [{"arm": "sft_ppo", "against": "sft", "variant": "all_5", "measure": "success"}]
    found = found_in(make_study(tmp_path, arms, n=30, primary=primary))
    why = "another task on each side: verify_iter differ"
    assert (found.primary, list(found.waiting.values())) == ([], [why])
    mixed = [c for claim in found.claims for c in claim.comparisons if c.first.arm == "sft_ppo"]
    assert {c.measure for c in mixed} == {"first_try"}
    alone = [c for claim in found.claims for c in claim.comparisons if c.first.arm == "sft"]
    assert {c.measure for c in alone} == {"success"}


def test_another_rule_in_one_arm_is_not_compared_and_said(tmp_path: Path) -> None:
    make_study(tmp_path, {"sft": {}, "sft_ppo": {"from": "sft"}}, n=20)
    for file in tmp_path.glob("sft_ppo/seed*/config.yaml"):
        file.write_text(file.read_text().replace("hands: train", "hands: train\n    suits: black"))
    found = next(c for c in found_in(tmp_path).claims if OWN in c.text)
    assert [c.variant for c in found.comparisons] == ["red_suits"]  # which has suits of its own
    assert found.left_out["all_5"] == "another task on each side: suits differ"
    assert "not compared</b> on all_5: another task" in claims(found_in(tmp_path))


def test_the_initial_model_is_that_of_the_arms_own_chain() -> None:
    one, other = Arm("one", "sft", None, None, None), Arm("other", "sft", None, None, None)
    shares = {("one", "start"): 0.1, ("one", "sft"): 0.6, ("other", "start"): 0.8}
    points = [
        point(arm, phase, 4 * (phase == "sft"), share, seed=seed)
        for (arm, phase), share in (shares | {("other", "sft"): 0.5}).items()
        for seed in (0, 1, 2)
    ]
    configs = {name: {"model": {"path": name}} for name in ("one", "other")}
    study = study_of(points, one, other, configs=configs)
    assert study.starts == {"start of one": ["one"], "start of other": ["other"]}
    found = {c.label: c.difference for x in findings(study).claims for c in x.comparisons}
    assert found == {
        "one at SFT step 4 − the initial model": pytest.approx(0.5),
        "other at SFT step 4 − the initial model": pytest.approx(-0.3),
    }
    rows = curves.forgetting(
        study_of([replace(p, kl=1.0 + p.step) for p in points], one, other, configs=configs),
        panels(1),
        ["in"],
    )
    assert [r["mean"] for r in rows] == pytest.approx([0, 0.5, 0, -0.3])
    assert [p.success for p in study.ends("start of other", "in")] == [0.8] * 3


def test_a_step_that_its_arm_did_not_evaluate_is_evaluated_by_what_begins_there() -> None:
    sft, rl = Arm("sft", "sft", None, None, None), Arm("rl", "rl", "sft", 2, None)
    points = [point("sft", "start", 0, 0.1), point("sft", "sft", 4, 0.9)]
    points += [point("rl", "start", 0, 0.3), point("rl", "ppo", 5, 0.7)]
    found = next(c for c in findings(study_of(points, sft, rl)).claims if "improves" in c.text)
    (compared,) = found.comparisons
    assert compared.label == "rl at PPO update 5 − sft at SFT step 2"
    assert compared.difference == pytest.approx(0.4)
