"""The table of faults: its rows, and that a part's rows replace its own alone."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import faults
from benchmarks.faults import PARTS, TABLE_BEGIN, TABLE_END, Result, chosen, write


def result(part, detected=1.25, outcome="replaced"):
    rest = {"load": 41.7, "waited_s": 0.31, "start_s": 24.51, "slowed": (1.3, 1.02)}
    return Result(part, "SIGKILL", "idle", detected, 30.0, 7, outcome, **rest)


def rows(page):
    return [line for line in page.read_text().splitlines() if line.startswith("| ")]


def test_a_row_has_a_dash_for_what_does_not_apply():
    assert result("engine").row() == (
        "| engine | SIGKILL | idle | 1.2 | 0.3 | 30.0 | 24.5 | 1.30 / 1.02 | 7 | 42 | replaced |"
    )
    ended = Result("driver", "SIGKILL", "idle", 2.0, None, None, "the run ends", load=0.2)
    assert ended.row() == "| driver | SIGKILL | idle | 2.0 | – | – | – | – | – | 0 | the run ends |"


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
        ("raylet", "SIGKILL", "idle"),
        ("raylet", "SIGSTOP", "idle"),
        ("machine", "SIGSTOP", "generating"),
    ]
    everything = chosen([*PARTS], ["SIGKILL"], ["idle", "starting"])
    assert {part for part, _, _ in everything} == {*PARTS}
    assert [part for part, _, phase in everything if phase == "starting"] == ["rank"]


def test_a_run_that_a_fault_ends_is_followed_by_another(monkeypatch, tmp_path):
    made = []

    class Run:
        def __init__(self, root, name, *keys, parent):
            made.append((name, keys, parent))
            self.ended = 0

        def end(self):
            self.ended += 1

    def put(run, fault, number):
        assert not run.ended
        runs.append(run)
        if number == 1:
            raise TimeoutError("the run ended before an update: said")
        return result(fault[0])

    runs = []
    monkeypatch.setattr(faults, "FaultyRun", Run)
    some = [("rank", "SIGKILL", "idle"), ("driver", "SIGSTOP", "idle"), ("rank", "SIGSTOP", "idle")]
    found = list(faults.in_one_run(tmp_path, some, put, "a=1", parent=7))
    assert [r.outcome for r in found][::2] == ["replaced", "replaced"]
    assert found[1] == replace(found[1], part="driver", detected_s=None, full_speed_s=None)
    assert found[1].outcome == "the run ended before an update: said"
    assert [run.ended for run in runs] == [1, 1, 1]
    assert runs[0] is runs[1] is not runs[2]
    assert [name for name, _, _ in made] == ["rank-0", "rank-2"]
    assert made[0][1:] == ((faults.EVALUATES, "a=1"), 7)
    assert list(faults.in_one_run(tmp_path, [], put)) == []
    assert len(made) == 2
