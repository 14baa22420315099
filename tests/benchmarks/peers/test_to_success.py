"""What is compared: the first time at which one side is as good as the other ever was."""

import json
from types import SimpleNamespace

import pytest

from benchmarks.peers import grpo, to_success
from benchmarks.peers.to_success import Point, Setting, best, until
from configs.load import load
from configs.seeds import evaluation_seeds

CURVE = [Point(0.0, 0.2), Point(10.0, 0.5), Point(20.0, 0.4), Point(30.0, 0.5)]


def test_the_best_is_the_first_of_the_highest():
    assert best(CURVE) == Point(10.0, 0.5)


@pytest.mark.parametrize(
    ("success", "seconds"), [(0.1, 0.0), (0.5, 10.0), (0.41, 10.0), (0.51, None)]
)
def test_as_good_is_reached_once(success, seconds):
    assert until(CURVE, success) == seconds


def test_both_sides_answer_the_same_questions(monkeypatch, tmp_path):
    """Of the demo's game, and TRL's updates are those of the setting that is tried."""
    asked = []

    def peer_job(cfg, model, threads, seeds, every_s, budget_s):
        asked.append((cfg, seeds, every_s, budget_s))
        return {"model": model}

    def run(command, log):
        assert json.loads((tmp_path / "job.json").read_text())["model"] == "m"
        log.write_text('noise\n{"step": 0, "seconds": 0.0, "greedy": 0.25}\n')

    monkeypatch.setattr(to_success, "peer_job", peer_job)
    monkeypatch.setattr(to_success, "run", run)
    args = to_success.parse(["--episodes", "7", "--every", "3", "--threads", "1"])
    points = to_success.theirs("python", Setting(8e-5, 4, 1), "m", args, tmp_path, 20.0)
    assert points == [Point(0.0, 0.25)]
    ((cfg, seeds, every, budget),) = asked
    demo = load("gp_l", ["eval.episodes=7"])
    assert seeds == evaluation_seeds(demo)
    assert (len(seeds), every, budget) == (7, 3.0, 20.0)
    assert (cfg.ppo.optimizer.lr, cfg.ppo.group_size, cfg.ppo.epochs) == (8e-5, 4, 1)
    assert cfg.env.settings == demo.env.settings


def test_the_setting_that_was_best_for_a_short_time_is_given_the_long_one(monkeypatch, capsys):
    curves = {1e-5: 0.3, 4e-5: 0.6, 1e-3: 0.1}  # the last only worsens
    asked = []

    def theirs(python, setting, model, args, folder, budget):
        asked.append((setting.lr, budget))
        return [Point(0.0, 0.2), Point(budget, curves[setting.lr])]

    monkeypatch.setattr(to_success, "theirs", theirs)
    args = to_success.parse(
        ["--lr", "1e-5", "4e-5", "1e-3", "--epochs", "2", "--short", "5", "--long", "50"]
    )
    points = to_success.sweep("python", "model", "folder", args)
    assert asked == [(1e-5, 5.0), (4e-5, 5.0), (1e-3, 5.0), (4e-5, 50.0)]
    assert points[-1] == Point(50.0, 0.6)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["best"] for row in rows] == [0.3, 0.6, 0.2, 0.6]
    assert rows[-1]["curve"] == [[0, 0.2], [50, 0.6]]


def test_seconds_of_ours_count_from_the_first_evaluation_with_those_that_follow(
    monkeypatch, tmp_path
):
    records = [
        {"kind": "eval", "time": 100.0, "success": 0.2},
        {"kind": "ppo", "time": 104.0},
        {"kind": "eval", "time": 110.0, "success": 0.4},
    ]
    begun = []
    monkeypatch.setattr(to_success, "cardinal", lambda keys, folder, name: begun.append(keys))
    monkeypatch.setattr(to_success, "read", lambda folder: records)
    args = to_success.parse(["--ours", "ppo.updates=3"])
    assert to_success.ours("m", 3, tmp_path, args) == [Point(0.0, 0.2), Point(10.0, 0.4)]
    (keys,) = begun
    cfg = load("gp_l", [key for key in keys if not key.startswith("model.path")])
    assert (cfg.seed, cfg.ppo.updates, list(cfg.eval.variants)) == (3, 3, ["train"])


def test_an_environment_whose_packages_are_not_all_there_is_made_again(monkeypatch, tmp_path):
    """As after an install that was interrupted."""
    commands = []
    monkeypatch.setattr(grpo.venv, "create", lambda folder, with_pip: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(
        grpo, "subprocess", SimpleNamespace(run=lambda command, check: commands.append(command))
    )
    for _ in range(2):
        grpo.python_with_trl(tmp_path / "venv")
    assert len(commands) == 1
    (tmp_path / "venv" / "requirements.txt").write_text("trl==1.0\n")
    grpo.python_with_trl(tmp_path / "venv")
    assert len(commands) == 2
