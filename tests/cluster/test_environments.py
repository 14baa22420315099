"""The environments of a run: the preset and the variants' own settings reach them."""

import re

import pytest

from cluster.environments import checked_environments, environments, load_run, settings_key
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


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        ("ppo: {updats: 3}", [], "FILE: ppo.updats: there is no such key"),
        ("ppo: {updats: 3}", ["seed=1"], "FILE: ppo.updats: there is no such key"),
        ("env: {settings: {face_rul: ten}}", [], "FILE: env.settings.face_rul: there is no such"),
        ("env: {settings: {face_rul: ten}}", ["seed=1"], "FILE: env.settings.face_rul: there is"),
        ("ppo: [", [], "FILE: not YAML"),
        ("seed: 1", ["ppo.updats=3"], "ppo.updats: there is no such key"),
        ("seed: 1", ["env.settings.face_rul=ten"], "env.settings.face_rul: there is no such key"),
        ("env: {settings: {face_rul: ten}}", ["typo=1"], "typo: there is no such key"),
    ],
)
def test_a_refusal_names_the_file_where_the_file_is_at_fault(tmp_path, text, overrides, sentence):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{text}\n" if text.endswith("[") else f"{text}\nsft: {{steps: 3}}\n")
    with pytest.raises(ConfigError, match="^" + re.escape(sentence.replace("FILE", str(file)))):
        load_run(file, overrides)


def test_a_setting_without_its_section_is_told_where_it_belongs():
    for key, hint in (
        ("face_rule=ten", "; the environment has env.settings.face_rule"),
        ("face_rul=ten", ""),
        ("ppo.face_rule=ten", ""),
    ):
        with pytest.raises(ConfigError) as error:
            load_run("gp_l_debug", ["seed=1", key])
        assert str(error.value).startswith(f"{key.partition('=')[0]}: there is no such key; ")
        assert str(error.value).count("env.settings") == (1 if hint else 0)
        assert str(error.value).endswith(hint)
    with pytest.raises(ConfigError) as error:
        load_run("gp_l_debug", ["env.id=cardinal/VIRL-v0", "face_rule=ten"])
    assert "env.settings" not in str(error.value)


def test_what_is_not_refused_is_loaded():
    assert load_run("gp_l_debug", ["seed=7"]) == load("gp_l_debug", ["seed=7"])


def test_keys_of_settings():
    assert settings_key("rollout") == "env.settings"
    assert settings_key("eval/a/eval/b") == "eval.variants.a/eval/b"


@pytest.mark.parametrize("keys", [[], ["face_rule=ten"]])
@pytest.mark.parametrize("env_id", ["cardinal/GeneralPoint-v0", "nomodule:Foo-v0", "foo"])
def test_an_environment_that_is_not_there_is_one_sentence(env_id, keys):
    with pytest.raises(ConfigError) as error:
        load_run("gp_l_debug", [f"env.id={env_id}", *keys])
    assert "\n" not in str(error.value)
    assert (env_id if not keys else "face_rule") in str(error.value)


@pytest.mark.parametrize(
    ("text", "seconds", "sentence"),
    [
        (
            "import time; time.sleep(600)",
            1,
            "importing plugin took longer than .*start_deadline_s = 1$",
        ),
        (
            "import os; print('imported'); os._exit(0)",
            300,
            "importing plugin ends its process, with code 0",
        ),
        ("import os; os.abort()", 300, "importing plugin ends its process, with code -6"),
    ],
)
def test_a_module_that_hangs_or_ends_its_process_is_refused(
    tmp_path, monkeypatch, text, seconds, sentence
):
    (tmp_path / "plugin.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=sentence):
        load_run("gp_l_debug", ["env.id=plugin:X-v0", f"cluster.start_deadline_s={seconds}"])


def test_a_module_that_raises_is_named_by_the_import_here(tmp_path, monkeypatch):
    (tmp_path / "raising_plugin.py").write_text("raise SystemExit('no')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="raising_plugin cannot be imported: SystemExit: no"):
        load_run("gp_l_debug", ["env.id=raising_plugin:X-v0"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["env.id=cardinal/VIRL-v0"], "another environment: env.settings={} leaves"),
        (
            ["env.id=cardinal/VIRL-v0", "env.settings={}"],
            "another environment: eval.variants.held_out=null leaves",
        ),
    ],
)
def test_settings_of_the_files_own_environment_can_be_left_out(overrides, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_run("gp_l", overrides)
