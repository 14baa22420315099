"""The command: what is passed on, and one line with the right exit code for what cannot be."""

import pyarrow.parquet as pq
import pytest

from cluster.cli import main
from cluster.failures import RunFailure
from configs.load import dump, load

GP = "cardinal/GeneralPoints-v0"
DEBUG = ("env.settings.prompt_style=brief", "sft.demonstrations=40", "seed=3")


@pytest.fixture
def run(tmp_path):
    """A run folder that was moved: its written name and root are another's."""
    folder = tmp_path / "2026-11-23"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(load("gp_l_debug", ["name=old"])))
    return folder


def said(capsys):
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("cardinal"), err
    return err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice"),
        (["check", "gp_l", "ppo.updats=1"], "ppo.updats: there is no such key; the nearest"),
        (["check", "gp_l", "--fast"], "unrecognized arguments: --fast"),
        (["check", "nothing"], "there is no such configuration file"),
        (["resume", "/nowhere"], "holds no config.yaml"),
        (["report", "/nowhere"], "holds no config.yaml"),
        (["report", "/nowhere", "x=1"], "unrecognized arguments: x=1"),
        (["eval", "/nowhere"], "holds no config.yaml"),
        (["data", GP, "--n", "0", "--out", "x"], "--n 0: must be at least 1"),
        (["data", GP, "--seed", "-1", "--out", "x"], "--seed -1: must be at least 0"),
        (["data", GP, "face_rul=ten", "--out", "x"], "nearest is face_rule"),
        (["baseline", GP, "--episodes", "0"], "--episodes 0: must be at least 1"),
        (["baseline", GP, "face_rul=ten"], "nearest is face_rule"),
        (["data", "no.json", "--out", "x"], "no.json: cannot be read"),
        (["init-model", "gp_l", "model.path=/x", "--out", "y"], "must be null"),
        (["play", GP, "--seed", "-1"], "--seed -1: must be at least 0"),
    ],
)
def test_bad_input_is_one_line_and_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse's own way out
        code = stop.code
    assert code == 2
    assert words in said(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RunFailure("an engine was lost"), 1, "an engine was lost"),
        (PermissionError(13, "Permission denied", "/runs"), 1, "Permission denied: '/runs'"),
        (KeyboardInterrupt(), 130, "interrupted; `cardinal resume RUN`"),
    ],
)
def test_failures_have_their_codes(error, code, words, run, capsys, monkeypatch):
    def train(cfg, resume):
        raise error

    monkeypatch.setattr("cluster.train.train", train)
    assert main(["resume", str(run)]) == code
    assert words in said(capsys)


def test_a_moved_run_is_resumed_where_it_lies(run, monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.train.train", lambda cfg, resume: seen.append((cfg, resume)) or 0)
    assert main(["resume", str(run)]) == 0
    ((cfg, resume),) = seen
    assert resume
    assert cfg.name == "2026-11-23"
    assert cfg.cluster.root == str(run.parent)


@pytest.fixture
def evaluated(monkeypatch):
    """(stage, variants, episodes) of every evaluation that was asked for."""
    seen = []
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


def test_data_of_an_environment(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["data", GP, "--n", "5", "--out", str(out), "prompt_style=brief"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert pq.read_table(out)["environment"].to_pylist() == [GP] * 5


@pytest.mark.parametrize("name", [GP, "gp_l_debug"])
def test_baselines_of_an_environment_or_of_a_configuration(name, capsys):
    key = "verify_iter" if name == GP else "env.settings.verify_iter"
    assert main(["baseline", name, f"{key}=2", "--episodes", "3"]) == 0
    heading, *rows = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["baseline", "first_try", "success"]
    assert any(row.split()[0] == "look-up" and row.split()[-2] == "3" for row in rows)


def test_data_of_a_configuration_is_what_its_run_would_write(tmp_path):
    from cluster.train import prepare_demonstrations

    out = tmp_path / "out"
    assert main(["data", "gp_l_debug", *DEBUG, "--out", str(out)]) == 0
    written = prepare_demonstrations(load("gp_l_debug", DEBUG), tmp_path / "run")
    parts = sorted(p.name for p in out.iterdir())
    assert parts == ["_demonstrations.json", "part-00000.parquet"]
    for part in parts:
        assert (out / part).read_bytes() == (tmp_path / "run/demonstrations" / part).read_bytes()
    assert written == str(tmp_path / "run" / "demonstrations")


def test_init_model_refuses_a_folder_that_is_there(tmp_path, capsys):
    assert main(["init-model", "gp_l_debug", "--out", str(tmp_path)]) == 2
    assert "is already there" in said(capsys)
    assert main(["init-model", "gp_l_debug", "--out", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_every_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    for command in ("check", "train", "resume", "eval", "report", "data", "init-model", "play"):
        assert f"\n    {command}" in shown
