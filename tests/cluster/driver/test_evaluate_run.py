"""`cardinal eval` for real: a PPO checkpoint with its value head, in a fresh engine."""

import json
import os
import signal
import threading
from contextlib import contextmanager

import pytest

from cluster.driver import evaluate_run as evaluate_run_module
from cluster.driver import rollout_pool
from cluster.driver.evaluate_run import _show, _show_floors, checkpoint, evaluate_run
from cluster.driver.rollout_pool import RolloutPool
from cluster.run import stop_signals
from cluster.run.last_resort import DONE
from cluster.run.lease import Lease, LeaseLost
from configs.load import ConfigError, load
from envs.base import Baseline
from envs.baselines import Floor
from tests.end_to_end.test_train import cardinal, finish


def test_which_checkpoint_is_played(tmp_path):
    cfg = load("gp_l_debug")
    with pytest.raises(ConfigError, match="no checkpoint of stage start"):
        checkpoint(tmp_path, cfg, None)
    for stage, place in (
        ("start", "model"),
        ("sft", "checkpoints/sft"),
        ("ppo", "checkpoints/ppo"),
    ):
        (tmp_path / place).mkdir(parents=True)
        assert checkpoint(tmp_path, cfg, None) == (stage, str(tmp_path / place))
    assert checkpoint(tmp_path, cfg, "sft")[0] == "sft"


def test_more_episodes_must_not_run_into_training(tmp_path):
    (tmp_path / "model").mkdir()
    cfg = load("gp_l_debug")
    with pytest.raises(ConfigError, match=r"eval\.seed=1000000: .*ppo trains on 10000000"):
        evaluate_run(tmp_path, cfg, None, {"train": {}}, 10_000_000)


def test_the_table_shows_recognition_where_something_is_read(tmp_path, capsys):
    record = {
        "stage": "ppo",
        "variant": "train",
        "success": 0.5,
        "interval": [0.4, 0.6],
        "n": 9,
        "first_try": 0.25,
        "metrics": {},
    }
    _show([record], tmp_path)
    assert "87.5%" not in capsys.readouterr().out
    _show([record | {"metrics": {"recognition": 0.875}}, record], tmp_path)
    shown = capsys.readouterr().out
    assert "87.5%" in shown
    assert "–" in shown.splitlines()[4]


GREEDY = {"success": 0.5, "interval": [0.4, 0.6], "n": 9, "questions": 7, "first_try": 0.25}


def test_the_table_leads_with_the_first_answer_where_there_are_several_tries(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "200")
    one = {"stage": "ppo", "variant": "v", "metrics": {}, "first_try": 0.25, "greedy": GREEDY}
    _show([one | {"headline": "success"}], tmp_path)
    cells = _cells(capsys)
    assert cells[2:] == ["success", "50.0%", "40.0% – 60.0%", "9", "7", "first try 25.0%"]
    _show([one | {"headline": "first_try", "first_try_interval": [0.1, 0.4]}], tmp_path)
    first = ["success at the first answer", "25.0%", "10.0% – 40.0%", "9", "7"]
    assert _cells(capsys)[2:] == [*first, "within all tries 50.0%"]


def _cells(capsys):
    """The cells of the table's only row."""
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "ppo" in one)
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_floors_stand_below_the_table(monkeypatch, capsys):
    cfg = load("gp_l")
    floor = Floor(Baseline("blind", "sees nothing", str), 9, 7, {"success": 0.5, "first_try": 0.25})
    monkeypatch.setattr(
        evaluate_run_module,
        "floors_of_variants",
        lambda given: {"three_tries": [floor], "held_out": [floor], "train": []},
    )
    _show_floors(cfg)
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    heads = [line[1:] for line in words if line[:1] == ["baseline"]]
    assert heads == [
        ["first_try", "success", "n", "distinct"],
        ["success", "first_try", "n", "distinct"],
    ]
    assert ["blind", "25.0", "%", "50.0", "%", "9", "7"] in words


def test_a_variant_is_checked_as_it_would_be_played(tmp_path):
    (tmp_path / "model").mkdir()
    cfg = load("gp_l_debug", ["preset=paper_code", "env.settings.prompt_style=full"])
    with pytest.raises(ValueError, match=r"^variant six: .*too many solution strings"):
        evaluate_run(tmp_path, cfg, None, {"six": {"num_cards": 6}}, None)


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Evaluates a run folder; what is played there is two records."""
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    cfg = load("gp_l_debug", [f"cluster.root={tmp_path}", "name=run"])
    monkeypatch.setattr(evaluate_run_module, "_show", lambda records, folder: None)
    monkeypatch.setattr(evaluate_run_module, "_show_floors", lambda cfg: None)

    def evaluate(play=lambda: None):
        def records(cfg, model, stage, pool):
            play()
            return [{"stage": stage, "model": model, "n": n} for n in (1, 2)]

        monkeypatch.setattr(evaluate_run_module, "_play", records)
        return evaluate_run(run, cfg, None, {"train": {}}, None)

    return evaluate


def test_an_evaluation_has_the_run_folder_to_itself(played, tmp_path):
    run = tmp_path / "run"

    def beside():
        with pytest.raises(ConfigError, match="the run folder is in use by process"):
            Lease(run)

    assert played(beside) == 0
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").open()]
    assert [(line["stage"], line["n"]) for line in lines] == [("start", 1), ("start", 2)]
    with Lease(run) as token:
        assert token.number == 2
        with pytest.raises(ConfigError, match="the run folder is in use by process"):
            played()


def test_an_evaluation_whose_folder_was_taken_over_writes_nothing(played, tmp_path):
    def taken():
        (tmp_path / "run" / "lease" / "000002.json").write_text("{}")

    with pytest.raises(LeaseLost):
        played(taken)
    assert not (tmp_path / "run" / "evaluations.jsonl").exists()


def test_another_signal_ends_the_end_of_an_evaluation_by_force(played, monkeypatch):
    """Its records are saved before its engines end, which is then no failure."""
    told, closing = [], threading.Event()
    monkeypatch.setattr(stop_signals, "end_at_once", lambda *words: told.append(words))
    monkeypatch.setattr(RolloutPool, "close", lambda pool: interrupted(pool))

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def interrupted(pool):
        before = len(told)
        while len(told) == before:
            interrupt()
            closing.wait(0.05)

    assert played() == 0
    assert {code for _, code in told} == {0}
    told.clear()
    with pytest.raises(KeyboardInterrupt):
        played(interrupt)
    assert set(told) == {("ended by force after SIGINT", 130)}


def test_an_evaluation_that_hangs_at_its_end_is_done(played, tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def within(seconds, what, *last):
        seen.append((last, (tmp_path / "run" / "evaluations.jsonl").is_file()))
        yield

    monkeypatch.setattr(rollout_pool, "within", within)
    assert played() == 0
    assert seen[0] == (DONE, True)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_is_evaluated_on_a_variant_of_its_own(tmp_path):
    small = ["sft.steps=2", "ppo.updates=3", "ppo.episodes=32", "eval.episodes=8"]
    run = tmp_path / "run"
    code, _, err = finish(
        cardinal("train", "gp_l_debug", "name=run", f"cluster.root={tmp_path}", *small), 200
    )
    assert code == 0, err[-3000:]
    assert (run / "checkpoints" / "ppo" / "value_head.safetensors").is_file()
    asked = ["--variant", "sevens", "face_rule=seven", "--episodes", "16"]
    code, out, err = finish(cardinal("eval", run, *asked), 150)
    assert code == 0, err[-3000:]
    (record,) = [json.loads(line) for line in (run / "evaluations.jsonl").open()]
    assert (record["stage"], record["variant"], record["n"]) == ("ppo", "sevens", 16)
    assert "sevens" in out
