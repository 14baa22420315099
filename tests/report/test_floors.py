"""Floors on disk, the best of them, and their table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from report.floors import best, floor_table, read_floors


def row(name: str, n: int = 200, **metrics: float) -> dict[str, Any]:
    return {
        "baseline": name,
        "description": f"plays <{name}>",
        "n": n,
        "questions": 120,
        "metrics": metrics,
    }


BLIND, COPY = row("blind", success=1.0, first_try=0.0), row("copy", success=0.5, first_try=0.25)


def test_a_folder_without_floors_has_none(tmp_path: Path) -> None:
    assert read_floors(tmp_path) == {}
    (tmp_path / "floors.json").write_text(json.dumps({"train": [BLIND]}))
    assert read_floors(tmp_path) == {"train": [BLIND]}


def test_the_best_is_by_the_measure() -> None:
    found = [best([BLIND, COPY], measure) for measure in ("success", "first_try", "recognition")]
    assert found == [BLIND, COPY, None]
    assert best([], "success") is None


def test_a_table_has_the_measures_that_some_baseline_has_and_each_description_once() -> None:
    reads = row("reads", n=1200, success=0.5, first_try=0.5, recognition=0.75)
    html = floor_table({"": {"a&b": [BLIND, reads], "out": [BLIND]}})
    assert "<th>recognition, %</th><th>n</th>" in html
    assert "per step" not in html
    cells = "<td>a&amp;b</td><td>blind</td><td>100.0</td><td>0.0</td><td>–</td><td>200</td>"
    assert cells in html
    assert "<td>75.0</td><td>1,200</td><td>120</td>" in html
    assert html.count("plays &lt;blind&gt;") == 1
    assert floor_table({}) == floor_table({"": {}}) == ""


def test_arms_that_agree_stand_once() -> None:
    same = floor_table({"one": {"train": [BLIND]}, "two": {"train": [BLIND]}})
    assert same.count("<td>train</td><td>blind</td>") == 1
    other = floor_table({"one": {"train": [BLIND]}, "two": {"train": [COPY]}})
    assert "<td>train (one)</td><td>blind</td>" in other
    assert "<td>train (two)</td><td>copy</td>" in other
