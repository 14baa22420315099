"""Figures are drawn from the study's own points, and only where it has them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.text import Text

from report.study.figures import draw, played
from report.study.points import Tally
from report.study.results import Arm, read_study
from tests.report.study.drawing import BY_KEY, drawn, point, study_of
from tests.support.example_study import ARMS, make_study


@pytest.mark.parametrize("key", ["recognition", "rl_and_sft", "verify_iterations", "sharpness"])
def test_no_file_where_the_study_lacks_the_data(tmp_path: Path, key: str) -> None:
    study = read_study(make_study(tmp_path, {"sft": {}}, n=10, seeds=(0,), vision=False))
    assert draw(study, BY_KEY[key], tmp_path / "figure.png") == []
    assert not (tmp_path / "figure.png").exists()


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


def test_a_caption_counts_what_is_drawn() -> None:
    """Pretraining stands for the initial model: no figure has its evaluations."""
    pretrain, sft = (Arm(n, k, None, None, None) for n, k in (("pre", "pretrain"), ("a", "sft")))
    few = {"success": {"q": Tally(1.0, 3)}}
    points = [point("pre", "sft", 4, 0.5, measures=few), point("a", "sft", 4, 0.5)]
    assert "an evaluation has 10 episodes of 10 distinct" in played(study_of(points, pretrain, sft))
