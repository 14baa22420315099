"""The picture shows what the records say, for complete and partial runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from report.metrics import read
from report.plots import COLORS, FLOOR, RECOGNITION, draw, stage_name
from report.summary import read_evaluated, stages, summarise_run
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


def test_the_band_of_training_is_as_wide_as_what_was_played_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by what was played of groups that no update trained on."""
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path)
    records = read(run)
    for played in (400, 40_000):
        shown = [r | {"success": 0.5, "episodes": 100, "episodes_played": played} for r in records]
        draw([r for r in shown if r["kind"] == "ppo"], summarise_run(run), tmp_path / "report.png")
    wide, narrow = (
        np.ptp(np.asarray(figure.axes[0].collections[0].get_paths()[0].vertices)[:, 1])
        for figure in kept
    )
    assert (wide, narrow) == (pytest.approx(9.75, abs=0.05), pytest.approx(0.98, abs=0.005))


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
    assert "greedy answers" in bars.get_title("left")
    assert {bar.get_width() for bar in bars.patches if isinstance(bar, Rectangle)} == {87.5}
    assert bars.get_yticklabels()[0].get_text() == "train\nn = 230"
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in kept[0].axes[0].lines]
    assert sum(line != [] and set(line) == {87.5} for line in lines) >= 3


def test_the_first_answer_leads_inside_the_outline_of_all_tries_with_the_floor_across(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path, tries=3)
    records, summary = read_evaluated(run), summarise_run(run)
    draw(records, summary, tmp_path / "report.png")
    draw(records, summary | {"floors": {}}, tmp_path / "report.png")
    figure, bare = kept
    (bars,) = (a for a in figure.axes if a.get_title("left").startswith("Success by"))
    rectangles = [bar for bar in bars.patches if isinstance(bar, Rectangle)]
    every = [r for stage in summary["stages"].values() for r in stage.values()]
    for filled, key in ((True, "first_try"), (False, "success")):
        widths = sorted(bar.get_width() for bar in rectangles if bar.get_fill() == filled)
        assert widths == pytest.approx(sorted(100 * r["greedy"][key] for r in every))
    whiskers = {
        round(float(x), 6)
        for one in bars.containers
        if isinstance(one, ErrorbarContainer)
        for cap in one.lines[1]
        for x in np.asarray(cap.get_xdata(), float)
    }
    bounds = {round(100 * bound, 6) for r in every for bound in r["first_try_interval"]}
    assert whiskers == bounds
    floors = [line for line in bars.lines if line.get_color() == FLOOR]
    assert [np.asarray(line.get_xdata()).tolist() for line in floors] == [[20.0, 20.0]] * 3
    label = "train\nat the first answer\nn = 512\nof 230 distinct hands"
    assert bars.get_yticklabels()[0].get_text() == label
    legend = bars.get_legend()
    assert legend is not None
    words = [text.get_text() for text in legend.get_texts()]
    assert words[-2:] == ["outline: within all tries", "best baseline"]
    without = next(a for a in bare.axes if a.get_title("left").startswith("Success by"))
    assert not [line for line in without.lines if line.get_color() == FLOOR]
    success = figure.axes[0]
    updates = [100 * r["first_try"] for r in records if r["kind"] == "ppo"]
    lines = [np.asarray(line.get_ydata(), float).tolist() for line in success.lines]
    assert any(line == pytest.approx(updates) for line in lines)
    evaluated = [
        100 * r["first_try"] for r in records if r["kind"] == "eval" and r["variant"] == "train"
    ]
    assert any(line == pytest.approx(evaluated) for line in lines)


def test_a_floor_above_all_bars_is_in_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file: kept.append(self))
    run = make_run(tmp_path, tries=1)
    summary = summarise_run(run)
    row = {"baseline": "look-up", "metrics": {"success": 1.0, "first_try": 0.5}}
    draw(read(run), summary | {"floors": {"train": [row]}}, tmp_path / "report.png")
    (bars,) = (a for a in kept[0].axes if a.get_title("left").startswith("Success by"))
    (line,) = (line for line in bars.lines if line.get_color() == FLOOR)
    assert np.asarray(line.get_xdata()).tolist() == [100.0, 100.0]
    assert bars.get_xlim()[1] > 100
