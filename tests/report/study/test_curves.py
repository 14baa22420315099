"""Curves: what stands on each axis, of which arms, and where a figure is left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.study import curves
from report.study.figures import draw
from report.study.points import Tally
from report.study.results import Arm, read_study
from tests.report.study.drawing import BY_KEY, drawn, panels, point, study_of
from tests.support.example_study import make_study


def test_curves_are_means_over_seeds_and_never_over_variants(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=40))
    rows = draw(study, BY_KEY["compute"], tmp_path / "compute.png")
    assert {r["variant"] for r in rows} == set(study.variants)
    for variant, side in (("train", "in"), ("held_out", "in"), ("all_5", "out")):
        mine = [r for r in rows if (r["arm"], r["step"], r["variant"]) == ("sft", 800, variant)]
        (row,) = mine
        seeds = [study.at("sft", s, variant)[-1].success for s in study.seeds]
        assert row["distribution"] == side
        assert row["mean"] == pytest.approx(np.mean(seeds))
        assert (row["lowest_seed"], row["highest_seed"]) == (min(seeds), max(seeds))
        assert row["seeds"] == 3
    spent = study.at("sft", 0, "train")[-1]
    assert (row["flops"], row["flops_formula"]) == (spent.flops, spent.flops_formula)
    assert row["flops"] > 0
    with Image.open(tmp_path / "compute.png") as image:
        assert image.size == (1600, 2 * 688 + 80)  # five panels and a caption
        assert len(image.convert("RGB").getcolors(2**20) or []) > 50


def test_steps_of_sft_go_on_where_the_source_ended(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=10, seeds=(0,)))
    rows = draw(study, BY_KEY["sft_sweep"], tmp_path / "sweep.png")
    inside = [r["sft_step"] for r in rows if r["variant"] == "held_out"]
    assert inside == [0, 100, 200, 400, 800, 800, 900, 1000, 1200, 1600]


def test_the_frontier_is_success_outside_against_success_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = read_study(make_study(tmp_path, n=30, seeds=(0, 1)))
    figure, rows = drawn(monkeypatch, study, "frontier")
    assert len(figure.axes) == len(study.outside)
    row = next(r for r in rows if (r["arm"], r["step"], r["variant"]) == ("sft_ppo", 10, "all_5"))
    points = [
        p
        for s in study.seeds
        for p in study.points
        if (p.arm, p.seed, p.phase, p.step) == ("sft_ppo", s, "ppo", 10)
    ]
    by_variant = {v: [p.success for p in points if p.variant == v] for v in ("train", "all_5")}
    assert row["success_on_train"] == pytest.approx(100 * np.mean(by_variant["train"]))
    assert row["mean"] == pytest.approx(np.mean(by_variant["all_5"]))


def test_sharpness_is_sampled_success_against_greedy_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = read_study(make_study(tmp_path, {"sft": {}}, n=30, seeds=(0, 1), samples=4))
    figure, rows = drawn(monkeypatch, study, "sharpness")
    row = next(r for r in rows if (r["step"], r["variant"]) == (400, "train"))
    points = [p for p in study.points if (p.step, p.variant) == (400, "train")]
    assert row["greedy"] == pytest.approx(100 * np.mean([p.greedy for p in points]))
    assert row["mean"] == pytest.approx(np.mean([p.sampled for p in points]))
    (caption,) = [figure.get_suptitle().replace("\n", " ")]
    assert (
        "30 episodes of 30 distinct hands, greedy answers, and 4 sampled ones to 30 of" in caption
    )


SFT, RL = Arm("sft", "sft", None, None, None), Arm("rl", "rl", "sft", None, None)
START = point("sft", "start", 0, 0.1)


def test_recognition_is_in_percent_and_points_without_it_are_left_out() -> None:
    def read(share: float) -> dict[str, dict[str, Tally]]:
        return {"recognition": {"q": Tally(share, 1)}}

    points = [
        point("sft", "start", 0, 0.1, measures=read(0.25)),
        point("sft", "sft", 4, 0.3),
        point("sft", "sft", 8, 0.5, measures=read(0.75)),
    ]
    rows = curves.recognition(study_of(points, SFT), panels(1), ["in"])
    assert [(r["recognition"], r["mean"], r["step"]) for r in rows] == [(25, 0.1, 0), (75, 0.5, 8)]
    assert curves.recognition(study_of(points[:2], SFT), panels(1), ["in"]) == []


def test_the_frontier_needs_a_variant_in_distribution_and_pairs_by_checkpoint() -> None:
    inside = [START, point("sft", "sft", 8, 0.6)]
    outside = [
        point("sft", p, s, x, variant="out") for p, s, x in (("start", 0, 0.3), ("sft", 8, 0.2))
    ]
    alone = point("sft", "sft", 9, 0.9, variant="out")  # not evaluated in distribution
    study = study_of([*inside, *outside, alone], SFT)
    rows = curves.frontier(study, panels(1), ["out"])
    assert [(r["success_on_in"], r["mean"]) for r in rows] == [(10, 0.3), (60, 0.2)]
    assert curves.frontier(study_of(inside, SFT, inside=[]), panels(1), ["out"]) == []


def test_sharpness_is_of_checkpoints_with_both_decodings() -> None:
    few = {f"q{i}": Tally(0.4, 4) for i in range(10)}
    most = {f"q{i}": Tally(3.0, 4) for i in range(10)}
    points = [
        point("sft", "start", 0, 0.1, samples=few),
        point("sft", "sft", 4, 0.3),
        point("sft", "sft", 8, 0.6, samples=most),
        point("sft", "sft", 9, 0.7, samples=few, decoding="sampled"),
    ]
    (axes,) = panels(1)
    rows = curves.sharpness(study_of(points, SFT), [axes], ["in"])
    assert [(r["greedy"], r["mean"]) for r in rows] == [(10, 0.1), (60, 0.75)]
    assert axes.get_xlim() == axes.get_ylim()  # the diagonal is one


def test_compute_says_both_counts_of_flops() -> None:
    points = [START, point("sft", "sft", 8, 0.6, flops=100.0, flops_formula=60.0)]
    points += [
        point("sft", "start", 0, 0.2, seed=1),
        point("sft", "sft", 8, 0.4, seed=1, flops=200.0, flops_formula=80.0),
    ]
    first, last = curves.compute(study_of(points, SFT), panels(1), ["in"])
    assert (first["flops"], first["flops_formula"]) == (0, None)
    assert (last["flops"], last["flops_formula"], last["mean"]) == (150, 70, 0.5)
    assert (last["lowest_seed"], last["highest_seed"], last["seeds"]) == (0.4, 0.6, 2)


def test_with_and_without_sft_needs_two_kinds_of_rl_and_leaves_sft_out() -> None:
    bare = Arm("bare", "rl_without_sft", None, None, None)
    mine = [point("rl", p, s, x) for p, s, x in (("start", 0, 0.5), ("ppo", 5, 0.6))]
    theirs = [
        point("bare", p, s, x) for p, s, x in (("start", 0, 0.1), ("sft", 4, 0.2), ("ppo", 5, 0.3))
    ]
    rows = curves.with_and_without(study_of(mine + theirs, RL, bare), panels(1), ["in"])
    assert [(r["arm"], r["update"]) for r in rows] == [
        ("rl", 0),
        ("rl", 5),
        ("bare", 0),
        ("bare", 5),
    ]
    assert curves.with_and_without(study_of(mine, RL), panels(1), ["in"]) == []


def test_a_sweep_rings_the_best_checkpoint_and_counts_the_steps_before() -> None:
    longer = Arm("longer", "sft", "sft", 4, None)
    first = [START, point("sft", "sft", 4, 0.6), point("sft", "sft", 8, 0.4)]
    second = [point("longer", p, s, x) for p, s, x in (("start", 0, 0.6), ("sft", 3, 0.9))]
    (axes,) = panels(1)
    rows = curves.sweep(study_of(first + second, SFT, longer), [axes], ["in"])
    assert [(r["arm"], r["sft_step"]) for r in rows] == [
        ("sft", 0),
        ("sft", 4),
        ("sft", 8),
        ("longer", 4),
        ("longer", 7),  # begun after step 4 of sft
    ]
    (ring,) = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (7, 90)
    assert curves.sweep(study_of(first[:2], SFT), panels(1), ["in"]) == []


def test_forgetting_is_success_minus_the_starts_by_kl() -> None:
    points = [
        point("sft", "start", 0, 0.5, kl=0.0),
        point("sft", "sft", 4, 0.2, kl=0.3),
        point("sft", "sft", 8, 0.9, kl=None),
    ]
    (axes,) = panels(1)
    rows = curves.forgetting(study_of(points, SFT), [axes], ["in"])
    assert [(r["kl_start"], r["mean"]) for r in rows] == [(0, 0), (0.3, pytest.approx(-0.3))]
    assert axes.get_ylim()[0] < -20


def test_sharpness_compares_the_same_questions() -> None:
    """Samples are of the first questions; greedy answers to the others say nothing about them."""
    samples = {"q0": Tally(1.0, 4), "q9": Tally(2.0, 8)}  # of which q0 alone is solved greedily
    points = [point("sft", p, s, 0.6, samples=samples) for p, s in (("start", 0), ("sft", 4))]
    rows = curves.sharpness(study_of(points, SFT), panels(1), ["in"])
    assert [r["greedy"] for r in rows] == pytest.approx([100 / 3] * 2)
    assert [r["mean"] for r in rows] == pytest.approx([0.25] * 2)


def test_steps_before_are_those_of_the_same_seed() -> None:
    longer = Arm("longer", "sft", "sft", None, None)
    points = [point("sft", "sft", s, 0.5, seed=k) for k, s in enumerate((4, 8))]
    points += [point("longer", "start", 0, 0.5, seed=k) for k in (0, 1)]
    points += [point("longer", "sft", 2, 0.6, seed=k) for k in (0, 1)]
    rows = curves.sweep(study_of([*points, START], SFT, longer), panels(1), ["in"])
    assert [r["sft_step"] for r in rows if r["arm"] == "longer"] == [6, 8]
