"""`cardinal eval` for real: a PPO checkpoint, its value head beside it, in a fresh engine."""

import json

import pytest

from cluster.evaluate_run import checkpoint
from configs.load import ConfigError, load
from tests.test_train import cardinal, finish


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
