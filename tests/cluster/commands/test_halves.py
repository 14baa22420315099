"""rollout and replay: what is refused before anything starts, and what then runs."""

import pytest

from cluster.cli import main
from configs.load import dump, load
from tests.cluster.commands.folders import said
from tests.cluster.stream.test_replay import run_folder


def test_rollouts_go_into_a_new_folder_outside_of_runs(tmp_path, capsys):
    command = ["rollout", "gp_l_debug", "--out"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert main([*command, str(tmp_path / "full")]) == 2
    assert "holds something already" in said(capsys)
    run, _ = run_folder(tmp_path)
    assert main([*command, str(run / "mine")]) == 2
    assert "is a run folder" in said(capsys)
    assert main([*command, str(tmp_path / "new"), "--updates", "0"]) == 2
    assert "--updates 0: must be at least 1" in said(capsys)
    assert main([*command, str(tmp_path / "new"), "model.path=/nowhere"]) == 2
    assert "model.path=/nowhere" in said(capsys)
    assert not (tmp_path / "new").exists()


def test_rollouts_are_of_the_named_updates(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("cluster.driver.rollout_only.record_rollouts", lambda *a: seen.append(a))
    out = tmp_path / "new"
    assert main(["rollout", "gp_l_debug", "--out", str(out), "--updates", "2", "seed=3"]) == 0
    ((cfg, folder, updates),) = seen
    assert (cfg.seed, folder, updates) == (3, out, 2)


@pytest.mark.parametrize(("updates", "code"), [("10", 0), ("11", 2)])
def test_no_rollout_is_of_a_seed_that_is_evaluated(tmp_path, monkeypatch, capsys, updates, code):
    """Of 3 updates, which the configuration has, there is none; each plays 64 from 10,000,000."""
    monkeypatch.setattr("cluster.driver.rollout_only.record_rollouts", lambda *a: None)
    command = ["rollout", "gp_l_debug", "--out", str(tmp_path / "new"), "eval.seed=10000640"]
    assert main([*command, "--updates", updates]) == code
    refused = (
        "--updates 11: eval.seed=10000640: evaluation plays seeds 10000640 to 10000703, and ppo"
    )
    assert (refused in capsys.readouterr().err) == (code == 2)


def test_a_replay_is_checked_trained_and_compared(tmp_path, monkeypatch, capsys):
    run, _ = run_folder(tmp_path)
    done = []
    monkeypatch.setattr("cluster.preflight.check.check", lambda cfg: done.append(("check", cfg)))
    monkeypatch.setattr("cluster.driver.train.train", lambda cfg: done.append(("train", cfg)) or 0)
    assert main(["replay", str(run), "name=again"]) == 0
    assert [what for what, _ in done] == ["check", "train"]
    assert done[1][1].name == "again"
    assert "update" in capsys.readouterr().out


def test_a_replay_needs_what_the_run_recorded(tmp_path, capsys):
    run, _ = run_folder(tmp_path, blocks=False)
    assert main(["replay", str(run)]) == 2
    assert "has recorded no blocks" in said(capsys)
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert "there is no such run folder" in said(capsys)


def test_training_on_blocks_that_are_not_there_is_refused_before_imports(tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["init-model", "gp_l_debug", "--out", str(model)]) == 0
    capsys.readouterr()
    settings = [f"model.path={model}", "sft.steps=0", f"cluster.root={tmp_path}"]
    assert main(["train", "gp_l_debug", *settings, "ppo.blocks=/nowhere"]) == 2
    assert "ppo.blocks=/nowhere: there is no such folder" in said(capsys)


@pytest.mark.parametrize("key", ["ppo.record", "ppo.blocks"])
def test_a_run_keeps_what_it_was_begun_with(key, tmp_path):
    value = {"ppo.record": "true", "ppo.blocks": "x"}[key]
    settings = [f"{key}={value}", "model.path=y", "sft.steps=0"]
    cfg = load("gp_l_debug", settings)
    file = tmp_path / "config.yaml"
    file.write_text(dump(cfg))
    assert load(file) == cfg
