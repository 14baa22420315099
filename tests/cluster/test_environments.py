"""The environments of a run: the preset and the variants' own settings reach them."""

import pytest

from cluster.environments import checked_environments, environments, settings_key
from configs.load import ConfigError, load


def test_environments_are_named_and_merged():
    played = environments(load("gp_l_debug", ["eval.variants.hard.face_rule=ranks"]))
    assert played["eval/hard"][1]["face_rule"] == "ranks"
    assert played["eval/hard"][1]["prompt_style"] == "brief"
    assert played["rollout"][1]["preset"] == "fixed"


def test_a_variants_own_settings_win():
    keys = ["eval.variants.hard.prompt_style=full", "eval.variants.hard.preset=own"]
    played = environments(load("gp_l_debug", keys))
    assert played["eval/hard"][1]["prompt_style"] == "full"
    assert played["eval/hard"][1]["preset"] == "own"
    assert played["rollout"][1]["prompt_style"] == "brief"


def test_settings_are_refused_by_their_key():
    for key in ("env.settings.face_rul=ten", "eval.variants.held_out.face_rul=ten"):
        with pytest.raises(ConfigError, match=f"{key.partition('=')[0]}: there is no such key"):
            checked_environments(load("gp_l_debug", [key]))
    with pytest.raises(ConfigError, match="nomodule"):
        checked_environments(load("gp_l_debug", ["env.id=nomodule:X-v0"]))
    cfg = load("gp_l_debug")
    assert checked_environments(cfg) == environments(cfg)


def test_keys_of_settings():
    assert settings_key("rollout") == "env.settings"
    assert settings_key("eval/a/eval/b") == "eval.variants.a/eval/b"
