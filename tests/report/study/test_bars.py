"""Bars and growth: which points they pool, and what their whiskers and dots say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Rectangle

from report.statistics import clustered
from report.study.bars import bars, verification
from report.study.points import pooled
from report.study.published import VERIFY
from report.study.results import OUTCOMES, Arm, read_study, run_folder
from tests.report.study.drawing import drawn, panels, point, study_of
from tests.support.example_study import make_study


def test_bars_pool_seeds_by_question_and_keep_unfinished_arms_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path, n=30)
    (run_folder(tmp_path, "sft", 2) / "status.json").unlink()
    for seed in (0, 1, 2):
        (run_folder(tmp_path, "ppo_only", seed) / "status.json").unlink()
    study = read_study(tmp_path)
    figure, rows = drawn(monkeypatch, study, "bars")
    by_arm = {r["arm"]: r for r in rows if r["variant"] == "train"}
    assert "ppo_only" not in by_arm
    assert (by_arm["sft"]["seeds"], by_arm["sft"]["n"], by_arm["sft"]["questions"]) == (2, 60, 30)
    assert by_arm["sft_long"]["checkpoint"] == "SFT step 800"
    ends = study.ends("sft_ppo", "train")
    tallies = pooled(ends)
    expected = clustered([t.total for t in tallies.values()], [t.rows for t in tallies.values()])
    assert (by_arm["sft_ppo"]["low"], by_arm["sft_ppo"]["high"]) == expected
    heights = sorted(p.get_height() for p in figure.axes[0].patches if isinstance(p, Rectangle))
    assert heights == pytest.approx(sorted(100 * r["success"] for r in rows))
    for words in (
        "Bars: all seeds' episodes together",
        "Whiskers: 95 % interval",
        "n = 3 training",
    ):
        assert words in figure.get_suptitle().replace("\n", " ")


def test_growth_is_a_panel_a_variant_and_stays_within_100_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms: dict[str, Any] = {"sft": {}}
    arms |= {f"ppo_{k}": {"from": "sft", "verify_iter": k} for k in (1, 10)}
    # One seed learns everything, one nothing: Student's interval would reach beyond 100 points.
    make_study(tmp_path, arms, n=20, seeds=(0, 1))
    for variant_share, seed in ((1.0, 0), (0.0, 1)):
        file = run_folder(tmp_path, "ppo_10", seed) / OUTCOMES
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row["success"] = variant_share if row["stage"] == "ppo" else 0.0
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = read_study(tmp_path)
    figure, rows = drawn(monkeypatch, study, "verify_iterations")
    assert {r["variant"] for r in rows} == set(study.outside)
    wide = [r for r in rows if r["verify_iter"] == 10]
    assert all((r["growth"], r["low"], r["high"]) == (0.5, -1.0, 1.0) for r in wide)
    labels = [{*one.get_legend_handles_labels()[1]} for one in figure.axes]
    published = [any(text.startswith("published") for text in found) for found in labels]
    assert published == [True, True, False]  # the paper's are about a rule, not about red suits


SFT, AGAIN = Arm("sft", "sft", None, None, None), Arm("again", "sft", None, None, None)
PPO = Arm("ppo", "rl", "sft", None, 1)
FIRST = [point("sft", "start", 0, 0.1), point("sft", "sft", 8, 0.6)]
SECOND = [point("again", "start", 0, 0.1), point("again", "sft", 9, 0.4)]


def test_the_initial_model_and_each_arms_end_are_bars_and_nothing_between() -> None:
    middle = point("sft", "sft", 4, 0.9)
    study = study_of([FIRST[0], middle, FIRST[1], *SECOND], SFT, AGAIN)
    (axes,) = panels(1)
    rows = bars(study, [axes], ["in"])
    assert [(r["arm"], r["success"], r["checkpoint"]) for r in rows] == [
        ("start", 0.1, "start"),
        ("sft", 0.6, "SFT step 8"),
        ("again", 0.4, "SFT step 9"),
    ]
    for row in rows:
        low, high = clustered(
            [1.0] * round(10 * row["success"]) + [0.0] * round(10 - 10 * row["success"]), [1] * 10
        )
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert (row["n"], row["questions"], row["seeds"]) == (10, 10, 1)
    drawn_bars = [p for p in axes.patches if isinstance(p, Rectangle)]
    assert [b.get_height() for b in drawn_bars] == pytest.approx([10, 60, 40])
    lefts = [b.get_x() for b in drawn_bars]
    assert lefts == sorted(lefts)
    colors = [b.get_facecolor()[:3] for b in drawn_bars]
    assert all(two >= one for one, two in zip(colors[1], colors[2], strict=True))
    assert colors[1] != colors[2]  # the second arm of a kind is paler
    assert axes.get_ylim()[0] == 0


def test_a_line_parts_variants_in_distribution_from_those_out_of_it() -> None:
    outside = [point("sft", p.phase, p.step, 0.2, variant="out") for p in FIRST]
    for points, lines in ((FIRST, 0), ([*outside, *FIRST], 1)):
        (axes,) = panels(1)
        rows = bars(study_of(points, SFT), [axes], ["in"])
        dashed = [line for line in axes.lines if line.is_dashed()]
        assert len(dashed) == lines
        ticks = [label.get_text().replace("\n", ": ") for label in axes.get_xticklabels()]
        assert ticks == ["in: in distribution", "out: out of distribution"][: lines + 1]
        assert [r["variant"] for r in rows] == ["in", "out", "in", "out"][:: 2 - lines]
    assert dashed[0].get_xdata()[0] == 0.5
    # Each arm stands in the legend once, however many variants there are.
    assert axes.get_legend_handles_labels()[1] == ["start", "sft"]


def grown(tries: int, gain: float, seed: int = 0) -> tuple[Arm, list[Any]]:
    """An arm of RL that begins at 0.2 and gains a share."""
    arm = Arm(f"ppo{tries}", "rl", "sft", None, tries)
    at = [("start", 0, 0.2), ("ppo", 5, 0.9), ("ppo", 10, 0.2 + gain)]
    return arm, [point(arm.name, p, s, x, seed=seed, variant="out") for p, s, x in at]


def test_growth_is_the_end_minus_the_first_evaluation() -> None:
    (ten, late), (one, early) = grown(10, 0.3), grown(1, -0.1)
    axes = panels(1)
    rows = verification(study_of(late + early, ten, one), axes, ["out"])
    assert [(r["arm"], r["verify_iter"], r["seeds"]) for r in rows] == [
        ("ppo1", 1, 1),
        ("ppo10", 10, 1),
    ]
    assert [r["growth"] for r in rows] == pytest.approx([-0.1, 0.3])
    assert [(r["low"], r["high"]) for r in rows] == [(None, None)] * 2  # of one seed
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["1", "10"]
    labels = axes[0].get_legend_handles_labels()[1]
    assert not any("published" in label for label in labels)  # another task than the paper's


def test_growth_has_an_interval_over_seeds() -> None:
    (arm, points), (one, other) = grown(3, 0.1), grown(1, 0.0)
    for seed, gain in ((1, 0.2), (2, 0.3)):
        points = points + grown(3, gain, seed)[1]
    rows = verification(study_of(points + other, arm, one), panels(1), ["out"])
    (row,) = [r for r in rows if r["verify_iter"] == 3]
    assert (row["seeds"], row["growth"]) == (3, pytest.approx(0.2))
    assert row["low"] == pytest.approx(0.2 - 4.302653 * 0.1 / 3**0.5)
    assert row["high"] == pytest.approx(0.2 + 4.302653 * 0.1 / 3**0.5)


def test_growth_needs_two_budgets_and_an_end() -> None:
    (three, points), (one, other) = grown(3, 0.1), grown(1, 0.0)
    assert verification(study_of(points, three), panels(1), ["out"]) == []
    study = study_of(points + other[:1], three, one)  # ppo1 has its start alone
    assert [r["arm"] for r in verification(study, panels(1), ["out"])] == ["ppo3"]
    study = study_of(points + other, three, one, finished={("ppo1", 0)})
    assert [r["arm"] for r in verification(study, panels(1), ["out"])] == ["ppo1"]


def test_the_papers_growth_stands_beside_ours_of_the_same_task_and_change() -> None:
    (three, points), (one, other) = grown(3, 0.1), grown(1, 0.0)
    config = {
        "env": {"id": "cardinal/GeneralPoints-v0", "settings": {}},
        "eval": {"variants": {"out": {"face_rule": "ranks"}}},
    }
    configs = {arm.name: config for arm in (three, one)}
    (axes,) = panels(1)
    verification(study_of(points + other, three, one, configs=configs), [axes], ["out"])
    (line,) = [x for x in axes.lines if str(x.get_label()).startswith("published")]
    assert list(line.get_ydata()) == list(VERIFY.values())
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert [ticks[round(x)] for x in line.get_xdata()] == [str(k) for k in VERIFY]
