"""The tables of a comparison, in the terminal and in a page."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from report.comparison.page import print_comparison, write_comparison
from report.comparison.runs import compare
from tests.support.example_run import make_run


def shown(*folders: Path) -> tuple[str, str]:
    """What is printed, and the page."""
    found, out, page = compare(folders), io.StringIO(), folders[0].parent / "compare.html"
    print_comparison(found, Console(file=out, width=240))
    write_comparison(found, page)
    return out.getvalue(), page.read_text()


def changed(folder: Path, old: str, new: str) -> Path:
    file = folder / "config.yaml"
    file.write_text(file.read_text().replace(old, new))
    return folder


def test_tables_hold_success_keys_and_speed(tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", tries=1)
    two = changed(make_run(tmp_path / "two", tries=1), "seed: 3", "seed: 4")
    for text in shown(one, two):
        for part in ("Success", "Configuration keys that differ", "Speed"):
            assert part in text
        assert "two − one, points" in text
        assert "one − one" not in text
        assert "512 of 230 distinct hands" in text
        assert "46.1 [41.8, 50.4]" in text
        assert "within all tries" not in text
        assert "+0.0 [" in text
        assert "230 hands" in text
        assert "all, s" in text
        assert "5,200" in text
        assert "5,200.0" not in text
    terminal, page = shown(one, two)
    row = next(line for line in terminal.splitlines() if "seed" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["seed", "3", "4"]
    assert "<td>seed</td><td>3</td><td>4</td>" in page
    assert "one against two" in page


def test_equal_runs_and_runs_without_evaluations_say_so(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / name, tries=1) for name in ("one", "two"))
    terminal, page = shown(one, two)
    assert "No configuration key differs." in terminal
    assert "keys that differ" not in page
    for folder in (one, two):
        (folder / "metrics.jsonl").write_text("")
    assert "None of these runs has an evaluation to compare." in shown(one, two)[0]


def test_texts_are_escaped(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two[b]")
    changed(two, "face_rule: ten", "face_rule: '<script>'")
    changed(two, "path: null", "path: /a/model")
    terminal, page = shown(one, two)
    assert "<script>" in terminal
    assert "two[b]" in terminal
    assert "<script>" not in page
    assert "<td>model.path</td><td>null</td><td>/a/model</td>" in page


def test_several_tries_show_both_shares(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / name, tries=3) for name in ("one", "two"))
    for text in shown(one, two):
        assert "success at the first answer" in text
        assert "within all tries)" in text


def test_a_run_that_was_broken_off_marks_the_page(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two", status="interrupted")
    page = shown(one, two)[1]
    assert 'class="status interrupted"' in page
    assert "two: interrupted" in page
