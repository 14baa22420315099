"""Figures are drawn from the study's own points, and only where it has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.study.figures import FIGURES, draw
from report.study.results import read_study
from tests.support.example_study import make_study

BY_KEY = {drawing.key: drawing for drawing in FIGURES}


def test_curves_are_means_over_seeds_and_variants(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=40))
    rows = draw(study, BY_KEY["compute"], tmp_path / "compute.png")
    row = next(r for r in rows if (r["arm"], r["step"], r["distribution"]) == ("sft", 800, "in"))
    assert row["variants"] == "train, held_out"
    seeds = [
        np.mean([study.at("sft", s, v)[-1].success for v in study.inside]) for s in study.seeds
    ]
    assert row["mean"] == pytest.approx(np.mean(seeds))
    assert (row["lowest_seed"], row["highest_seed"]) == (min(seeds), max(seeds))
    spent = study.at("sft", 0, "train")[-1]
    assert (row["flops"], row["flops_formula"]) == (spent.flops, spent.flops_formula)
    assert row["flops"] > 0
    with Image.open(tmp_path / "compute.png") as image:
        assert image.size == (1600, 2 * 688)  # in distribution, and three questions out of it
    apart = {r["variants"] for r in rows if r["distribution"] == "out"}
    assert apart == {"rule_11_12_13", "all_5", "red_suits"}
    with Image.open(tmp_path / "compute.png") as image:
        assert len(image.convert("RGB").getcolors(2**20) or []) > 50


@pytest.mark.parametrize("key", ["recognition", "rl_and_sft", "verify_iterations"])
def test_no_file_where_the_study_lacks_the_data(tmp_path: Path, key: str) -> None:
    study = read_study(make_study(tmp_path, {"sft": {}}, n=10, seeds=(0,), vision=False))
    assert draw(study, BY_KEY[key], tmp_path / "figure.png") == []
    assert not (tmp_path / "figure.png").exists()


def test_steps_of_sft_go_on_where_the_source_ended(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path, n=10, seeds=(0,)))
    rows = draw(study, BY_KEY["sft_sweep"], tmp_path / "sweep.png")
    inside = [r["sft_step"] for r in rows if r["distribution"] == "in"]
    assert inside == [0, 100, 200, 400, 800, 800, 900, 1000, 1200, 1600]
