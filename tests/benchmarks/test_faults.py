"""The table of faults: its rows, and that a part's rows replace its own alone."""

from __future__ import annotations

from benchmarks.faults import PARTS, TABLE_BEGIN, TABLE_END, Result, chosen, write


def result(part, detected=1.25, outcome="replaced"):
    rest = {"load": 41.7, "start_s": 24.51, "slowed": (1.3, 1.02)}
    return Result(part, "SIGKILL", "idle", detected, 30.0, 7, outcome, **rest)


def rows(page):
    return [line for line in page.read_text().splitlines() if line.startswith("| ")]


def test_a_row_has_a_dash_for_what_does_not_apply():
    assert result("engine").row() == (
        "| engine | SIGKILL | idle | 1.2 | 30.0 | 24.5 | 1.30 / 1.02 | 7 | 42 | replaced |"
    )
    ended = Result("driver", "SIGKILL", "idle", 2.0, None, None, "the run ends", load=0.2)
    assert ended.row() == "| driver | SIGKILL | idle | 2.0 | – | – | – | – | 0 | the run ends |"


def test_the_page_keeps_its_words_and_the_rows_of_other_faults(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{TABLE_BEGIN}\n{TABLE_END}\nafter\n")
    write(page, [result("engine"), result("actor")])
    write(page, [result("engine", outcome="anew"), result("driver")])
    text = page.read_text()
    assert text.startswith(f"before\n{TABLE_BEGIN}")
    assert text.endswith(f"{TABLE_END}\nafter\n")
    assert [row.split(" | ")[0] for row in rows(page)[2:]] == ["| engine", "| actor", "| driver"]
    assert text.count("anew") == 1
    assert text.count("| part |") == 1


def test_faults_of_what_has_no_phases_are_chosen_once():
    assert chosen(["machine", "raylet"], ["SIGKILL", "SIGSTOP"], ["idle", "starting"]) == [
        ("raylet", "SIGKILL", "generating"),
        ("machine", "SIGSTOP", "generating"),
    ]
    everything = chosen([*PARTS], ["SIGKILL"], ["idle", "starting"])
    assert {part for part, _, _ in everything} == {*PARTS}
    assert [part for part, _, phase in everything if phase == "starting"] == ["rank"]
