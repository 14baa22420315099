"""The configuration of a replay: the run's, without what needs engines, from where PPO began."""

import pytest

from cluster.stream.recorded_blocks import FOLDER
from cluster.stream.replay import replayed
from configs.load import ConfigError, dump, load
from configs.recorded import turned_off
from rollout.block_files import write_block
from tests.configs.test_recorded import IGNORED


def run_folder(tmp_path, *overrides, blocks=True):
    run = tmp_path / "mine"
    (run / "model").mkdir(parents=True)
    cfg = load("gp_l_debug", ["name=mine", f"cluster.root={tmp_path}", *overrides])
    (run / "config.yaml").write_text(dump(cfg))
    if blocks:
        write_block(run / FOLDER / "000001", 0, [])
    return run, cfg


@pytest.mark.parametrize("sft", [True, False])
def test_it_is_the_run_from_where_ppo_began(sft, tmp_path):
    run, cfg = run_folder(tmp_path, "ppo.record=true", "eval.every=1", "sft.keep=[3]")
    if sft:
        (run / "checkpoints" / "sft").mkdir(parents=True)
    again = replayed(cfg, run, ["ppo.clip=0.3"])
    start = run / "checkpoints" / "sft" if sft else run / "model"
    assert again.model.path == str(start)
    assert again.ppo.blocks == str(run / FOLDER)
    assert (again.name, again.cluster.root) == ("mine-replay", str(tmp_path))
    assert (again.sft.steps, again.sft.keep, again.eval.every) == (0, [], 0)
    assert (again.ppo.record, again.ppo.clip) == (False, 0.3)
    assert (again.ppo.updates, again.seed) == (cfg.ppo.updates, cfg.seed)


@pytest.mark.parametrize("key", IGNORED)
def test_a_run_with_what_only_engines_use_is_replayed_without(key, tmp_path):
    run, cfg = run_folder(tmp_path, *IGNORED[key])
    assert turned_off(cfg)
    again = replayed(cfg, run, [])
    assert turned_off(again) == []
    assert again.ppo.blocks == str(run / FOLDER)


def test_a_model_of_the_users_is_where_ppo_began_without_sft(tmp_path):
    run, cfg = run_folder(tmp_path, "model.path=/a/model", "sft.steps=0")
    assert replayed(cfg, run, []).model.path == "/a/model"


def test_a_run_that_has_recorded_nothing_is_refused(tmp_path):
    run, cfg = run_folder(tmp_path, blocks=False)
    with pytest.raises(ConfigError, match=r"has recorded no blocks; .* with ppo.record=true"):
        replayed(cfg, run, [])
