"""train, resume and init-model: what is begun, what continues, and where."""

import pytest

from cluster.cli import main
from cluster.placement.plan import plan
from cluster.placement.types import Node
from cluster.preflight.check import CheckedRun
from configs.load import dump, load
from tests.cluster.commands.folders import moved_run, said


@pytest.fixture
def run(tmp_path):
    return moved_run(tmp_path)


def test_a_moved_run_is_resumed_where_it_lies(run, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "cluster.driver.train.train", lambda cfg, resume: seen.append((cfg, resume)) or 0
    )
    assert main(["resume", str(run)]) == 0
    ((cfg, resume),) = seen
    assert resume
    assert cfg.name == "2026-11-23"
    assert cfg.cluster.root == str(run.parent)


def test_a_resume_needs_its_places_too(run, monkeypatch, capsys):
    monkeypatch.setattr("cluster.driver.train.train", lambda cfg, resume: pytest.fail("it started"))
    monkeypatch.setenv("HOME", "/proc")
    assert main(["resume", str(run)]) == 2
    assert "HOME=/proc: cannot be written to" in said(capsys)


@pytest.mark.parametrize("there", [False, True])
def test_train_resumes_what_is_there_and_starts_what_is_not(there, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.driver.train.train", lambda cfg, resume: seen.append(resume) or 0)
    arguments = ["gp_l_debug", "name=mine", f"cluster.root={tmp_path}"]
    if there:
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "config.yaml").write_text(dump(load("gp_l_debug", arguments[1:])))
    assert main(["train", *arguments, "--resume"]) == 0
    assert seen == [there]
    if there:  # without the option a folder that is taken is refused, as ever
        assert main(["train", *arguments]) == 2
        assert len(seen) == 1


def test_init_model_refuses_a_folder_that_is_there(tmp_path, capsys):
    assert main(["init-model", "gp_l_debug", "--out", str(tmp_path)]) == 2
    assert "is already there" in said(capsys)
    assert main(["init-model", "gp_l_debug", "--out", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_init_model_does_not_write_into_a_run(run, capsys):
    (run / "lease").mkdir()
    assert main(["init-model", "gp_l_debug", "--out", str(run / "m")]) == 2
    assert f"--out {run}/m: {run} is a run folder" in said(capsys)
    assert not (run / "m").exists()


def test_check_with_an_address_shows_the_plan_alone(capsys, monkeypatch):
    seen = []
    plain = plan(load("gp_l_debug"), [Node("a", "a", {"CPU": 8.0}, {"CPU": 8.0})])

    def check(cfg):
        seen.append(cfg.cluster.address)
        return CheckedRun(cfg, {}, {}, None, 0, {}, plain, ())

    monkeypatch.setattr("cluster.preflight.check.check", check)
    assert main(["check", "gp_l_debug", "--address", "head:6379"]) == 0
    shown = capsys.readouterr().out
    assert "placement on head:6379" in shown
    assert "run folder" not in shown
    assert main(["check", "gp_l_debug"]) == 0
    assert "run folder" in capsys.readouterr().out
    assert seen == ["head:6379", None]


def test_train_begins_only_what_the_check_accepts(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("cluster.driver.train.train", lambda cfg, resume: seen.append(resume) or 0)
    assert main(["train", "gp_l_debug", "env.settings.hand=2"]) == 2
    assert "env.settings.hand: there is no such key" in said(capsys)
    assert seen == []
