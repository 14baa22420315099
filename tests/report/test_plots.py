"""The picture shows what the records say, for complete and partial runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from report.metrics import read
from report.plots import COLORS, RECOGNITION, draw, stage_name
from report.summary import stages, summarise_run
from tests.support.example_run import make_run


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))


def pixels(file: Path, color: str) -> int:
    image = np.asarray(Image.open(file).convert("RGB")).astype(int)
    return int((np.abs(image - rgb(color)).sum(-1) < 12).sum())


@pytest.mark.parametrize(
    ("upto", "drawn"), [("start", ()), ("sft", ("sft",)), ("ppo-part", ("sft", "ppo"))]
)
def test_stages_that_happened_are_drawn(tmp_path: Path, upto: str, drawn: tuple[str, ...]) -> None:
    run = make_run(tmp_path / "run", upto)
    draw(read(run), summarise_run(run), tmp_path / "report.png")
    for stage in ("sft", "ppo"):
        assert (pixels(tmp_path / "report.png", COLORS[stage]) > 2_000) == (stage in drawn)


def test_nothing_measured_yet_is_no_error(tmp_path: Path) -> None:
    draw([], summarise_run(tmp_path), tmp_path / "report.png")
    assert Image.open(tmp_path / "report.png").size[0] > 1_000


def test_lost_numbers_leave_a_gap(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    records = read(run)
    for record in records[::3]:
        record.update({key: None for key in ("loss", "reward") if key in record})
    draw(records, summarise_run(run), tmp_path / "report.png")
    assert pixels(tmp_path / "report.png", COLORS["ppo"]) > 2_000


def test_bars_and_curves_have_the_records_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path)
    summary = summarise_run(run)
    draw(read(run), summary, tmp_path / "report.png")
    success, _, strip = kept[0].axes[:3]
    (bars,) = (a for a in kept[0].axes if a.get_title("left").startswith("Success by"))
    widths = sorted(bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle))
    expected = [100 * r["success"] for stage in summary["stages"].values() for r in stage.values()]
    assert widths == pytest.approx(sorted(expected))
    labels = [label.get_text() for label in bars.get_yticklabels()]
    assert labels[1] == "held_out\nn = 512"
    assert {"SFT  170 s", "PPO  179 s"} <= {text.get_text() for text in strip.texts}
    updates = [100 * r["success"] for r in read(run) if r["kind"] == "ppo"]
    assert any(
        np.asarray(line.get_ydata()).tolist() == pytest.approx(updates) for line in success.lines
    )


def test_stage_names() -> None:
    assert stage_name("ppo", {"a": {"update": 20}}) == "PPO, update 20"
    assert stage_name("ppo", {"a": {"update": 0}, "b": {}}) == "after PPO"


def test_recognition_of_every_variant_and_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path)
    records, summary = read(run), summarise_run(run)
    draw(records, summary, tmp_path / "report.png")
    for r in records:
        if r["kind"] == "eval":
            r["metrics"]["recognition"] = 0.9
        elif r["kind"] == "ppo":
            r["metric_recognition"] = 0.8
    draw(records, summary, tmp_path / "report.png")
    without, with_it = (
        [line for line in figure.axes[0].lines if line.get_color() == RECOGNITION]
        for figure in kept
    )
    assert without == []
    variants, training = with_it[:-1], with_it[-1]
    assert len(variants) == len(summary["stages"]["sft"])
    assert all(set(np.asarray(line.get_ydata()).tolist()) == {90.0} for line in variants)
    assert set(np.asarray(training.get_ydata()).tolist()) == {80.0, 90.0}
    figure = kept[1]
    figure.canvas.draw()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for line in with_it:
        points = line.axes.transData.transform(np.asarray(line.get_xydata(), float))
        assert not any(box.contains(x, y) for x, y in points)


def test_greedy_evaluations_are_drawn_where_there_are_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path)
    records = read(run)
    for r in records:
        if r["kind"] == "eval":
            r["greedy"] = {"success": 0.875, "n": 230, "interval": [0.8, 0.9]}
    draw(records, summarise_run(run) | {"stages": stages(records)}, tmp_path / "report.png")
    (bars,) = (a for a in kept[0].axes if a.get_title("left").startswith("Success by"))
    assert {bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle)} == {87.5}
    assert bars.get_yticklabels()[0].get_text() == "train\nn = 230"
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in kept[0].axes[0].lines]
    assert sum(line != [] and set(line) == {87.5} for line in lines) >= 3
