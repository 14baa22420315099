"""eval, report and trace: which variants are played, which page and trace is written."""

import json

import pytest

from cluster.cli import main
from configs.load import ConfigError
from report.spans import SpanFile
from tests.cluster.commands.folders import moved_run, said
from tests.support.trace_format import check_trace


@pytest.fixture
def run(tmp_path):
    run = moved_run(tmp_path)
    (run / "model").mkdir()
    (run / "checkpoints" / "sft").mkdir(parents=True)
    return run


@pytest.fixture
def evaluated(monkeypatch):
    """(stage, variants, episodes) of every evaluation that was asked for."""
    seen = []
    monkeypatch.setattr("cluster.preflight.early.refuse_evaluation", lambda *given: None)
    monkeypatch.setattr(
        "cluster.driver.evaluate_run.evaluate_run",
        lambda folder, cfg, *rest: seen.append(rest) or 0,
    )
    return seen


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], (None, {"train": {}, "held_out": {"hands": "held_out"}}, None)),
        (
            ["--variant", "held_out", "--stage", "sft"],
            ("sft", {"held_out": {"hands": "held_out"}}, None),
        ),
        (["--variant", "x", "face_rule=seven"], (None, {"x": {"face_rule": "seven"}}, None)),
        (["a=1", "--variant", "x", "b=2", "--episodes", "9"], (None, {"x": {"a": 1, "b": 2}}, 9)),
        (
            ["--variant", "held_out", "target=20"],
            (None, {"held_out": {"hands": "held_out", "target": 20}}, None),
        ),
    ],
)
def test_what_is_evaluated(run, evaluated, arguments, expected):
    assert main(["eval", str(run), *arguments]) == 0
    assert evaluated == [expected]


def test_what_refuses_an_evaluation_comes_first(run, evaluated, monkeypatch, capsys):
    asked = []

    def refuse(cfg, folder, model):
        asked.append((cfg.name, folder, model))
        raise ConfigError("too little")

    monkeypatch.setattr("cluster.preflight.early.refuse_evaluation", refuse)
    assert main(["eval", str(run)]) == 2
    assert main(["eval", str(run), "--stage", "start"]) == 2
    models = run / "checkpoints" / "sft", run / "model"
    assert asked == [(run.name, run, str(model)) for model in models]
    assert evaluated == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["face_rule=seven"], "face_rule=seven belongs to a variant: give --variant NAME"),
        (["--variant", "hard"], "--variant hard: the run has train, held_out"),
        (["--episodes", "0"], "--episodes 0: must be at least 1"),
    ],
)
def test_what_cannot_be_evaluated(run, evaluated, capsys, arguments, words):
    assert main(["eval", str(run), *arguments]) == 2
    assert words in said(capsys)
    assert evaluated == []


def test_a_study_has_its_own_report(run, tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("report.page.write_report", lambda folder: seen.append(folder))
    monkeypatch.setattr("report.study.page.write_study_report", lambda folder: f"page of {folder}")
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    monkeypatch.setattr("report.study.results.is_study", lambda folder: True)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"page of {run}\n"
    assert seen == [str(run)]


def test_runs_are_compared_with_the_first(tmp_path, capsys):
    one, two = (moved_run(tmp_path / name) for name in ("one", "two"))
    out = tmp_path / "page.html"
    assert main(["compare", str(one), str(two), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert f"{one} against {two}" in out.read_text()


def test_what_cannot_be_compared(run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for runs, words in (
        ([run], f"compare {run}: is one run; give two or more"),
        ([run, run / ".." / run.name], "names a run twice"),
        ([run, "/nowhere"], "/nowhere: there is no such run folder"),
        ([run, moved_run(tmp_path / "two"), "--out", "no/x.html"], "--out no/x.html: there is no"),
    ):
        assert main(["compare", *map(str, runs)]) == 2
        assert words in said(capsys)
    assert not (tmp_path / "compare.html").exists()


def test_a_page_does_not_go_into_a_run(run, tmp_path, capsys):
    out = run / "status.json"
    assert main(["compare", str(run), str(moved_run(tmp_path / "two")), "--out", str(out)]) == 2
    assert f"--out {out}: {run} is a run folder" in said(capsys)
    assert not out.exists()


@pytest.fixture
def traced(run):
    """A run folder with two updates."""
    file = SpanFile(run, "learner rank 0")
    for update in (1, 2):
        file.begin(2 * update, "main", "update", {"update": update})
        file.begin(2 * update + 1, "main", "take", {})
        file.end(2 * update + 1)
        file.end(2 * update)
    return run


def test_a_trace_is_written_into_the_run_folder_and_its_shares_are_printed(traced, capsys):
    assert main(["trace", str(traced)]) == 0
    trace = json.loads((traced / "trace.json").read_text())
    check_trace(trace)
    assert [e["name"] for e in trace["traceEvents"] if e["ph"] == "X"] == ["update", "take"] * 2
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("updates 1 to 2, ")
    assert second.startswith("learner rank 0, main: ")
    assert "take" in second
    assert last == f"{traced}/trace.json: open it at https://ui.perfetto.dev"


def test_a_trace_goes_where_it_is_asked_for_and_is_drawn(traced, tmp_path):
    out, png = tmp_path / "one.json", tmp_path / "one.png"
    options = ["--updates", "2", "--out", str(out), "--png", str(png)]
    assert main(["trace", str(traced), *options]) == 0
    assert json.loads(out.read_text())["otherData"]["shown"] == "update 2"
    assert png.stat().st_size > 5_000
    assert not (traced / "trace.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--updates", "3"], "--updates 3: the run has recorded updates 1 to 2"),
        (["--updates", "1..2"], "--updates 1..2: must be a number, FIRST-LAST or all"),
        (["--out", "/nowhere/x"], "--out /nowhere/x: there is no such folder to write it in"),
        (["--updates", "2-1"], "--updates 2-1: FIRST must not be after LAST"),
        (["--png", "x.txt"], "--png x.txt: must end in .png"),
        (
            ["--png", "/nowhere/x.png"],
            "--png /nowhere/x.png: there is no such folder to write it in",
        ),
    ],
)
def test_a_trace_that_cannot_be_is_one_line(traced, capsys, options, words):
    assert main(["trace", str(traced), *options]) == 2
    assert words in said(capsys)
    assert not (traced / "trace.json").exists()


@pytest.mark.parametrize("option", ["--out", "--png"])
def test_a_trace_does_not_go_among_the_files_of_a_run(traced, capsys, option):
    assert main(["trace", str(traced), option, str(traced / "status.json")]) == 2
    assert f"{option} {traced}/status.json: {traced} is a run folder" in said(capsys)
    assert not (traced / "status.json").exists()


def test_a_trace_that_has_no_room_is_one_line_with_its_file(traced, capsys):
    assert main(["trace", str(traced), "--out", "/dev/full"]) == 1
    words = "cardinal: OSError: [Errno 28] No space left on device: '/dev/full'"
    assert said(capsys).strip() == words


def test_a_run_that_recorded_no_spans_has_no_trace(run, capsys):
    assert main(["trace", str(run)]) == 2
    assert f"{run}: the run has recorded no spans" in said(capsys)


def test_a_trace_of_damaged_spans_is_written_and_says_what_it_leaves_out(traced, capsys):
    (traced / "trace" / "another.jsonl").write_text('{"kind": "ppo"}\n\0\n')
    assert main(["trace", str(traced)]) == 0
    assert "another.jsonl: 2 lines are left out: they are damaged" in capsys.readouterr().err
    assert len(json.loads((traced / "trace.json").read_text())["traceEvents"]) > 4
