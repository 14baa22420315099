"""docs/scaling.md is what its rows say, and its rows reproduce the runs that were measured."""

import pytest

from benchmarks.scaling.__main__ import MEASURED, PREDICTED, rounded
from benchmarks.scaling.layouts import LAYOUTS
from benchmarks.scaling.page import draw, page, size, table
from benchmarks.scaling.sizes import GPUS, MODELS
from configs.paths import ROOT
from report.metrics import read_lines


def test_the_page_is_made_of_the_rows():
    text = page(read_lines(MEASURED), read_lines(PREDICTED))
    assert (ROOT / "docs" / "scaling.md").read_text() == text
    assert "{" not in text.replace("```", "")


def test_all_sizes_are_there():
    rows = read_lines(PREDICTED)
    assert [(r["model"], r["gpus"]) for r in rows] == [(m, g) for m in MODELS for g in GPUS]


def test_layouts_are_predicted_within_15_percent_or_not_measured_yet():
    rows = {row["layout"]: row for row in read_lines(MEASURED) if row["name"] == "layout"}
    text = (ROOT / "docs" / "scaling.md").read_text()
    missing = text.partition("**Not measured yet**: ")[2].partition("\n")[0]
    for name in LAYOUTS:
        assert (name in rows) != (name in missing), name
    for row in rows.values():
        assert 0.85 <= row["ratio"] <= 1.15, row["layout"]


def test_the_picture_is_drawn(tmp_path):
    draw(read_lines(PREDICTED), tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_small_helpers():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert [size(v) for v in (999.0, 1e3, 2.5e9)] == ["999 B/s", "1 kB/s", "2.5 GB/s"]
    assert rounded({"a": 1.23456, "b": [1], "c": {"d": 0.000123456}}) == {
        "a": pytest.approx(1.235, abs=1e-9),
        "b": [1],
        "c": {"d": 0.0001235},
    }
