"""What a configuration names: environments, tokenizers and models that cannot be, in one line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.environments import environments
from cluster.preflight.resolve import resolve
from configs.load import ConfigError, load
from rollout.renderer import Renderer
from tests.support.environments import only_deadline
from tests.support.plugins import TEACHER


def debug(*overrides):
    """Its run folder is taken by nothing, whatever runs this checkout has seen."""
    return load("gp_l_debug", ["cluster.root=/nowhere", *overrides])


def with_model(folder, *overrides):
    return debug(f"model.path={folder}", *overrides)


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy of the tiny model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refused(cfg, *words):
    with pytest.raises(ConfigError) as error:
        resolve(cfg)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_environment_settings():
    refused(debug("env.settings.face_rul=ten"), "env.settings.face_rul", "nearest is face_rule")
    refused(debug("eval.variants.x.face_rule=eleven"), "eval.variants.x.face_rule=eleven")
    refused(debug("env.id=cardinal/GeneralPints-v0"), "cardinal/GeneralPints-v0")
    refused(debug("env.settings.suits=red"), "env.settings: GeneralPoints: suits needs modality")
    refused(debug("eval.variants.x.suits=red"), "eval.variants.x: GeneralPoints: suits needs")
    refused(debug("env.id=nomodule:X-v0"), "nomodule:X-v0")


def test_an_environment_without_text_needs_a_model(tmp_path):
    (tmp_path / "plain.yaml").write_text(
        "env: {id: CartPole-v1}\nppo: {updates: 3}\neval: {variants: {a: {}}}\n"
    )
    refused(load(tmp_path / "plain.yaml"), "CartPole-v1", "they must be texts")


def test_an_environment_without_corpus_or_demonstrations_needs_those_of_others(model, tmp_path):
    guess = "examples.gymnasium_environment.guess:example/Guess-v0"
    file = tmp_path / "plain.yaml"
    head = f"env: {{id: '{guess}'}}\n"
    file.write_text(head + "ppo: {updates: 3}\neval: {variants: {a: {}}}\n")
    refused(load(file), f"env.id={guess}: has no corpus", "set model.path")
    own = f"model.path={model}"
    refused(
        load(file, [own, "sft.steps=1"]), f"sft.steps=1: {guess} has no demonstrations", "sft.data"
    )
    assert resolve(load(file, [own])).environments["eval/a"] == (guess, {})
    assert resolve(load(file, [own, "sft.steps=1", f"sft.data={tmp_path}"])).cfg.sft.steps == 1
    cfg = load(tmp_path / "plain.yaml", ["env.settings.gravty=1"])
    refused(cfg, f"env.settings: {guess} cannot be played: environment make: ", "gravty")


@pytest.mark.parametrize("what", ["demonstrations", "corpus"])
def test_what_others_offer_is_asked_where_it_may_hang(what, monkeypatch):
    only_deadline(monkeypatch, what)
    own = (f"env.id={TEACHER}", "env.settings={}", "eval.variants={a: {}}")
    cfg = debug(*own)
    seen = resolve(cfg)
    assert [one.seed for one in seen.demonstrations] == list(range(16))
    assert seen.renderer.tokenizer("5+10").input_ids
    stuck = debug(*own, "cluster.env_deadline_s=2")
    refused(
        replace(stuck, env=replace(stuck.env, settings={"kind": f"stuck_{what}"})),
        f"env.settings: {TEACHER} cannot be played: environment {what}: took longer than "
        "cluster.env_deadline_s = 2",
    )


def test_models_too_small_for_the_run(model):
    refused(with_model("/nowhere/at/all"), "model.path=/nowhere/at/all", "no such folder")
    refused(with_model(model, "rollout.context_tokens=4096"), "rollout.context_tokens=4096", "1024")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    refused(with_model(model), "its tokenizer has", "more than the 100")


def test_a_token_that_nothing_writes_needs_no_row(model):
    tokenizer = Renderer.load(str(model)).tokenizer
    tokenizer.add_special_tokens(
        {"extra_special_tokens": ["<soft>"]}, replace_extra_special_tokens=False
    )
    tokenizer.save_pretrained(model)
    assert resolve(with_model(model)).model.vocabulary == len(tokenizer) - 1


@pytest.mark.parametrize("text", ["{", "{}", '{"version": "1.0", "added_tokens": []}'])
def test_damaged_tokenizers(model, text):
    (model / "tokenizer.json").write_text(text)
    refused(with_model(model), f"model.path={model}: ")


def without(model, key):
    """Take a key out of the tokenizer's configuration."""
    file = model / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop(key, None)
    file.write_text(json.dumps(config))


def test_a_folder_without_a_tokenizer(model):
    for file in model.glob("tokenizer*"):
        file.unlink()
    refused(with_model(model), f"model.path={model}: holds no tokenizer", "tokenizer.json")


def test_a_chat_template_that_is_no_template(model):
    (model / "chat_template.jinja").write_text("{{ x")
    refused(
        with_model(model), f"model.path={model}: chat template of ", "cannot be read: unexpected"
    )


def test_a_tokenizer_without_chat_template(model):
    (model / "chat_template.jinja").unlink(missing_ok=True)
    without(model, "chat_template")
    refused(with_model(model), "model.path=", "has no chat template")


def test_a_tokenizer_without_an_end_token(model):
    without(model, "eos_token")
    (model / "generation_config.json").unlink()
    run = resolve(with_model(model))
    assert run.renderer.tokenizer.eos_token_id is None
    assert run.renderer.decode(run.renderer.answer("1")) == "1"  # the template's token ends it


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "own.Own"]}}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": "own.Own"}}),
    ],
)
def test_code_of_a_model_folder_is_neither_run_nor_asked_about(
    file, keys, vision_model, tmp_path, monkeypatch
):
    """Transformers would ask at the terminal whether to run it."""
    folder, asked = tmp_path / "model", []
    shutil.copytree(vision_model, folder)
    values = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    own = {"tokenizer_class": "Own", "processor_class": "Own"}
    (folder / file).write_text(json.dumps(values | own | keys))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    see = ("env.settings.modality=vision", "env.settings.image_size=128")
    refused(
        with_model(folder, *see), f"model.path={folder}: it needs Python code of its own (auto_"
    )
    assert asked == []
    assert not (tmp_path / "ran").exists()


SEES = ("env.settings.modality=vision", "env.settings.image_size=128")


def test_vision_sizes_that_do_not_divide():
    refused(debug(*SEES, "model.init.vision.patch_size=12"), "model.init.vision", "multiple of")


def test_the_parts_of_a_run(tiny_model):
    cfg = with_model(tiny_model)
    run = resolve(cfg)
    assert run.environments == environments(cfg)
    assert run.renderer.processor is None
    assert run.model.vocabulary == len(run.renderer.tokenizer)
    assert "value head" in run.model.parameters


def test_a_tiny_model_has_a_processor_where_there_are_pictures():
    run = resolve(debug(*SEES))
    assert run.renderer.processor is not None
    assert run.model.parameters["vision"] > 10**5
    assert resolve(debug()).renderer.processor is None
