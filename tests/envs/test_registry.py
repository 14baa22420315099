"""Environments are found, made and checked by id."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest

import envs
from envs.general_points.env import GeneralPoints
from envs.gymnasium_text import GymnasiumText
from envs.registry import BUILT_IN, check_settings, env_class, make, overlap, spec, with_preset

GP = "cardinal/GeneralPoints-v0"


def test_importing_envs_registers_and_gymnasium_makes():
    assert envs.__doc__
    assert set(BUILT_IN) <= set(gymnasium.registry)
    env = gymnasium.make(GP, modality="vision", image_size=128, face_rule="ranks")
    assert type(env) is GeneralPoints
    assert env.reset(seed=0)[0]["image"].shape == (128, 128, 3)


def test_importing_envs_imports_no_environment():
    code = "import envs, sys; print([m for m in sys.modules if m.startswith(('envs.', 'PIL'))])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "['envs.base', 'envs.registry']"


def test_make_strips_wrappers_of_text_environments_only():
    assert type(make(GP, {"prompt_style": "brief"})) is GeneralPoints
    guess = make("examples.gymnasium_environment.guess:example/Guess-v0", {})
    assert isinstance(guess, GymnasiumText)
    assert isinstance(guess.env, gymnasium.Wrapper)


def test_a_plugin_may_be_a_file_in_the_current_folder(tmp_path, monkeypatch):
    code = "import gymnasium\ngymnasium.register('here/Here-v0', 'missing:Here')\n"
    (tmp_path / "plugin_of_here.py").write_text(code)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with pytest.raises(ValueError, match="No module named 'plugin_of_here'"):
        spec("plugin_of_here:here/Here-v0")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_here.py").write_text("import no_such_module_at_all")
    with pytest.raises(ValueError, match="No module named 'no_such_module_at_all'"):
        spec("broken_here:here/Here-v0")
    assert spec("plugin_of_here:here/Here-v0").id == "here/Here-v0"
    assert sys.path[-1] == str(tmp_path), "behind all others: it hides nothing"
    assert sys.path.count(str(tmp_path)) == 1
    gymnasium.registry.pop("here/Here-v0")


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("a b", "SyntaxError: invalid syntax"),
        ("missing_name", "NameError: name 'missing_name' is not defined"),
        ("import sys; sys.exit()", "SystemExit"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("from envs import no_such_name", "ImportError: cannot import name 'no_such_name'"),
    ],
)
def test_a_plugin_that_fails_at_import_is_named(tmp_path, monkeypatch, code, cause):
    """As its own module, and as the module of an entry point."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fails_at_import.py").write_text(code)
    with pytest.raises(ValueError, match=r"env.id is 'fails_at_import:f/F-v0': ") as refused:
        spec("fails_at_import:f/F-v0")
    assert f"fails_at_import cannot be imported: {cause}" in str(refused.value)
    gymnasium.register("f/F-v0", "fails_at_import:F")
    try:
        with pytest.raises(ValueError, match=r"env.id is 'f/F-v0': ") as refused:
            check_settings("f/F-v0", {})
        assert f"fails_at_import:F cannot be loaded: {cause}" in str(refused.value)
    finally:
        gymnasium.registry.pop("f/F-v0")


def test_memory_at_import_is_for_the_process_to_judge(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hungry_at_import.py").write_text("raise MemoryError")
    with pytest.raises(MemoryError):
        spec("hungry_at_import:f/F-v0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"face_rul": "ten"},
            "env.settings.face_rul: there is no such key; the nearest is face_rule",
        ),
        ({"modality": "sound"}, "env.settings.modality=sound: must be one of language, vision"),
        ({"face_rule": "rank"}, "the nearest is ranks"),
        ({"num_cards": "four"}, "env.settings.num_cards"),
        ({"target": 0}, "env.settings.target=0: must be at least 1"),
        ({"suits": "red"}, "suits needs modality=vision"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        check_settings(GP, settings)
    with pytest.raises(ValueError, match=message.replace("env.settings", "GeneralPoints")):
        make(GP, settings)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("cardinal/GeneralPoint-v0", "Did you mean: `GeneralPoints`"),
        ("no_such_module:x/Y-v0", "No module named 'no_such_module'"),
        ("json:x/Y-v0", "x"),
    ],
)
def test_unknown_environments_are_named(env_id, message):
    for call in (check_settings, make):
        with pytest.raises(ValueError, match=f"(?s)env.id is .*{message}"):
            call(env_id, {})


def test_environments_of_others_take_their_keywords_unchecked():
    assert env_class("CartPole-v1") is None
    check_settings("CartPole-v1", {"anything": 1})
    assert with_preset("CartPole-v1", {"a": 1}, "fixed") == {"a": 1}


def test_the_runs_preset_reaches_environments_that_know_it():
    assert with_preset(GP, {}, "paper_code") == {"preset": "paper_code"}
    assert with_preset(GP, {"preset": "fixed"}, "paper_code") == {"preset": "fixed"}


@pytest.mark.parametrize(
    ("train", "evaluation", "expected"),
    [
        ((GP, {"hands": "train"}), (GP, {"hands": "held_out", "preset": "fixed"}), "none"),
        ((GP, {"hands": "train"}), (GP, {"hands": "train"}), "all"),
        ((GP, {}), ("cardinal/VIRL-v0", {}), "unknown"),
        (("CartPole-v1", {}), ("CartPole-v1", {}), "unknown"),
    ],
)
def test_what_of_an_evaluation_training_can_ask(train, evaluation, expected):
    assert overlap(*train, *evaluation) == expected
