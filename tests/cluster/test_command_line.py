"""The command line: one line with the right exit code for what cannot be, and the help."""

import os
import re
import signal

import pytest

from cluster.cli import main
from cluster.command_line import GROUPS
from cluster.failures import ClusterBusyError, InUseError, OutOfMemory, PlacementError, RunFailure
from cluster.run.stop_signals import Terminated
from tests.cluster.commands.folders import moved_run, said

GP = "cardinal/GeneralPoints-v0"


@pytest.fixture
def run(tmp_path):
    return moved_run(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: COMMAND"),
        (["trian"], "invalid choice"),
        (["check", "gp_l", "ppo.updats=1"], "ppo.updats: there is no such key; the nearest"),
        (["check", "gp_l", "--fast"], "unrecognized arguments: --fast"),
        (["check", "nothing"], "there is no such configuration file"),
        (["resume", "/nowhere"], "/nowhere: there is no such run folder"),
        (["report", "/nowhere"], "/nowhere: there is no such run folder"),
        (["report", "/nowhere", "x=1"], "unrecognized arguments: x=1"),
        (["trace", "/nowhere"], "/nowhere: there is no such run folder"),
        (["eval", "/nowhere"], "/nowhere: there is no such run folder"),
        (["data", GP, "--n", "0", "--out", "x"], "--n 0: must be at least 1"),
        (["data", GP, "--seed", "-1", "--out", "x"], "--seed -1: must be at least 0"),
        (["data", GP, "face_rul=ten", "--out", "x"], "nearest is face_rule"),
        (["baseline", GP, "--episodes", "0"], "--episodes 0: must be at least 1"),
        (["baseline", GP, "face_rul=ten"], "nearest is face_rule"),
        (["data", "no.json", "--out", "x"], "no.json: there is no such file"),
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
        (PlacementError("too few GPUs"), 2, "too few GPUs"),
        (ClusterBusyError("no GPU is free"), 75, "no GPU is free"),
        (InUseError("the run folder is in use"), 75, "the run folder is in use"),
        (KeyboardInterrupt(), 130, "cardinal: interrupted\n"),
        (Terminated("SIGTERM"), 75, "cardinal: ended by SIGTERM\n"),
        (OutOfMemory("rank 0: CUDA out of memory"), 12, "CUDA out of memory"),
    ],
)
def test_failures_have_their_codes(error, code, words, run, capsys, monkeypatch):
    def train(cfg, resume):
        raise error

    monkeypatch.setattr("cluster.driver.train.train", train)
    assert main(["resume", str(run)]) == code
    assert words in said(capsys)


def test_sigterm_ends_any_command_as_ctrl_c_does(run, capsys, monkeypatch):
    def terminated(folder):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("report.page.write_report", terminated)
    assert main(["report", str(run)]) == 75
    assert said(capsys) == "cardinal: ended by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_keys_may_stand_after_options(run, capsys):
    """Argparse leaves them over there."""
    assert main(["check", "gp_l", "seed=1", "--address", "x", "ppo.updats=1"]) == 2
    assert "ppo.updats: there is no such key" in said(capsys)


def test_every_command_says_what_it_does(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    names = [command.name for group in GROUPS for command in group.COMMANDS]
    assert len(names) == len(set(names)) == 20
    for name in names:
        assert re.search(rf"\n    {name} +\w|\n    {name}\n +\w", shown), name
