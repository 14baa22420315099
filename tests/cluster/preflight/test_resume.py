"""`cardinal train --resume`: a run continues only as it was begun."""

import pytest

from cluster.preflight.resume import was_begun
from configs.load import ConfigError, dump, load


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    at = f"cluster.root={tmp_path}"
    cfg = load("gp_l_debug", ["name=mine", at])
    assert not was_begun(cfg)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(dump(load("gp_l_debug", ["name=mine"])))
    assert was_begun(cfg)  # a folder that was moved is the same run
    other = ("rollout.workers=3", "learner.ranks=2", "rollout.read_weights=false")
    assert was_begun(load("gp_l_debug", ["name=mine", at, *other]))  # other machines
    patience = ("cluster.max_failure_rate=0.3", "cluster.episode_deadline_s=130", "tracker=wandb")
    assert was_begun(load("gp_l_debug", ["name=mine", at, *patience]))
    for key in ("learner.zero_stage=1", "rollout.temperature=0.5", "learner.checkpoint_root=/x"):
        with pytest.raises(ConfigError, match=rf"was begun with {key.partition('=')[0]}="):
            was_begun(load("gp_l_debug", ["name=mine", at, key]))
    with pytest.raises(ConfigError, match=r"was begun with ppo.updates=3, and this is 5; choose"):
        was_begun(load("gp_l_debug", ["name=mine", at, "ppo.updates=5"]))
    with pytest.raises(ConfigError, match=r"begun with eval.variants={.*}, and this is {.*20}"):
        was_begun(load("gp_l_debug", ["name=mine", at, "eval.variants.train.target=20"]))
