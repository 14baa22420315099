"""`cardinal eval` for real: a PPO checkpoint with its value head, in a fresh engine."""

import json

import pytest

from cluster.evaluate_run import _show, checkpoint, evaluate_run
from configs.load import ConfigError, load
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


def test_a_variant_is_checked_as_it_would_be_played(tmp_path):
    (tmp_path / "model").mkdir()
    cfg = load("gp_l_debug", ["preset=paper_code", "env.settings.prompt_style=full"])
    with pytest.raises(ValueError, match=r"^variant six: .*too many solution strings"):
        evaluate_run(tmp_path, cfg, None, {"six": {"num_cards": 6}}, None)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_run_is_evaluated_on_a_variant_of_its_own(tmp_path):
    small = ["sft.steps=2", "ppo.updates=1", "ppo.episodes=32", "eval.episodes=8"]
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
