"""eval and report: which variants are played, which page is written."""

import pytest

from cluster.cli import main
from configs.load import ConfigError
from tests.cluster.commands.folders import moved_run, said


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
        "cluster.evaluate_run.evaluate_run", lambda folder, cfg, *rest: seen.append(rest) or 0
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
        ([run, "/nowhere"], "/nowhere: holds no config.yaml"),
        ([run, moved_run(tmp_path / "two"), "--out", "no/x.html"], "--out no/x.html: there is no"),
    ):
        assert main(["compare", *map(str, runs)]) == 2
        assert words in said(capsys)
    assert not (tmp_path / "compare.html").exists()
