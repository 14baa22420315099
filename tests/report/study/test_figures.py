"""Figures are drawn from the study's own points, and only where it has them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from report.statistics import clustered
from report.study.figures import FIGURES, draw
from report.study.points import pooled
from report.study.results import OUTCOMES, Study, read_study, run_folder
from tests.support.example_study import ARMS, make_study

BY_KEY = {drawing.key: drawing for drawing in FIGURES}


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


@pytest.mark.parametrize("key", ["recognition", "rl_and_sft", "verify_iterations", "sharpness"])
def test_no_file_where_the_study_lacks_the_data(tmp_path: Path, key: str) -> None:
    study = read_study(make_study(tmp_path, {"sft": {}}, n=10, seeds=(0,), vision=False))
    assert draw(study, BY_KEY[key], tmp_path / "figure.png") == []
    assert not (tmp_path / "figure.png").exists()


def test_steps_of_sft_go_on_where_the_source_ended(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=10, seeds=(0,)))
    rows = draw(study, BY_KEY["sft_sweep"], tmp_path / "sweep.png")
    inside = [r["sft_step"] for r in rows if r["variant"] == "held_out"]
    assert inside == [0, 100, 200, 400, 800, 800, 900, 1000, 1200, 1600]


def drawn(
    monkeypatch: pytest.MonkeyPatch, study: Study, key: str
) -> tuple[Figure, list[dict[str, Any]]]:
    """The figure before it is saved, laid out, and its rows."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    rows = draw(study, BY_KEY[key], Path("nowhere.png"))
    kept[0].canvas.draw()
    return kept[0], rows


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
    assert row["greedy"] == pytest.approx(100 * np.mean([p.success for p in points]))
    assert row["mean"] == pytest.approx(np.mean([p.sampled for p in points]))
    (caption,) = [figure.get_suptitle().replace("\n", " ")]
    assert (
        "30 episodes of 30 distinct hands, greedy answers, and 4 sampled ones to 30 of" in caption
    )


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


@pytest.mark.parametrize("key", list(BY_KEY))
def test_no_text_of_a_figure_covers_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    arms: dict[str, Any] = ARMS | {f"ppo_{k}": {"from": "sft", "verify_iter": k} for k in (1, 3)}
    study = read_study(make_study(tmp_path, arms, n=6, seeds=(0, 1), samples=1))
    figure, _ = drawn(monkeypatch, study, key)
    outside = {  # ticks beyond the limits have a text that is not drawn
        tick.label1
        for one in figure.axes
        for axis in (one.xaxis, one.yaxis)
        for tick in axis.get_major_ticks()
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    boxes = {t: t.get_window_extent() for t in texts if t not in outside}
    for one, other in itertools.combinations(boxes, 2):
        first, second = boxes[one], boxes[other]
        wide = min(first.x1, second.x1) - max(first.x0, second.x0)
        high = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert min(wide, high) < 2, (one.get_text(), other.get_text())
