"""Configuration: what is wrong is refused in one sentence that names key, value and rule."""

import dataclasses
import subprocess
import sys

import pytest

from configs.load import ConfigError, build, dump, load, parse
from configs.paths import ROOT
from configs.schema import leaf


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("ppo: {updates: 3, optimizer: {lr: 1e-4}}\n")
    return path


def test_defaults_then_preset_then_file_then_overrides(file):
    assert load(file).ppo.optimizer.lr == 1e-4
    assert load(file, ["ppo.optimizer.lr=2e-4"]).ppo.optimizer.lr == 2e-4
    assert load(file).ppo.value_trunk_grad == 0.1
    study = load(file, ["preset=paper_text"])
    assert study.ppo.value_trunk_grad == 1.0
    assert study.ppo.optimizer.lr == 1e-4
    assert load(file, ["preset=paper_text", "ppo.value_trunk_grad=0.5"]).ppo.value_trunk_grad == 0.5


def test_a_file_names_its_run(file):
    assert load(file).name == "mine"
    assert load(file, ["name=other"]).name == "other"


def test_it_is_frozen_and_reads_back_equal(file, tmp_path):
    cfg = load(file, ["env.settings.face_rule=ranks", "eval.variants.x.hands=held_out"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 3
    (tmp_path / "again.yaml").write_text(dump(cfg))
    assert load(tmp_path / "again.yaml") == cfg


def test_null_drops_a_variant_of_the_file():
    assert "three_tries" in load("gp_l").eval.variants
    kept = load("gp_l", ["eval.variants.three_tries=null"]).eval.variants
    assert list(kept) == ["train", "held_out", "rule_11_12_13"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("ppo.updats=3", "ppo.updats: there is no such key; the nearest is updates"),
        ("pop.updates=3", "pop: there is no such key; the nearest is ppo"),
        ("ppo.updates=many", "ppo.updates='many': must be a whole number"),
        ("ppo.updates=1.5", "ppo.updates=1.5: must be a whole number"),
        ("learner.lora_targets=q", "lora_targets: there is no such key; there is model.lora_targ"),
        ("lora_targets=q_proj", "lora_targets: there is no such key; there is model.lora_targets"),
        ("updates=3", "updates: there is no such key; there is ppo.updates"),
        ("lr=1", "lr: there is no such key; there are sft.optimizer.lr and ppo.optimizer.lr"),
        ("ppo.optimizer.root=x", "ppo.optimizer.root: there is no such key; there is cluster.root"),
        ("optimizer.lr=1", "optimizer: there is no such key; there are sft.optimizer and ppo.opt"),
        ("name='  '", "name='  ' must neither begin nor end with a blank"),
        ('name="a\\nb"', "name='a\\nb' must neither begin nor end with a blank, and be print"),
        ("cluster.root=", "cluster.root='': must name a folder"),
        ("sft.data=~nobody-here/x", "sft.data=~nobody-here/x: this machine has no such user"),
        ("nothing.at.all=1", "nothing: there is no such key; there are name, seed, preset"),
        ("learner.zero_stage=4", "learner.zero_stage=4: must be one of 0, 1, 2, 3"),
        ("ppo.estimator=gea", "ppo.estimator=gea: must be one of gae, grpo"),
        ("ppo.clip=-1", "ppo.clip=-1.0: must be at least 0"),
        ("sft.optimizer.warmup=2", "sft.optimizer.warmup=2.0: must be at most 1"),
        ("ppo=3", "ppo=3: must hold keys and values"),
        ("seed", "override 'seed' must have the form key=value"),
        ("ppo.updates=[", "override ppo.updates: the value '[' is not YAML"),
        ("ppo..updates=3", "override 'ppo..updates=3' must have the form key=value"),
        ("ppo.clip=.nan", "ppo.clip=nan: must be a finite number"),
        ("ppo.optimizer.lr=.inf", "ppo.optimizer.lr=inf: must be a finite number"),
        ("preset=papr_text", "preset=papr_text: must be one of fixed"),
        ("preset=[1]", "preset=[1]: must be one of fixed, paper_text"),
        (
            "model.lora_targets=q_proj",
            "model.lora_targets='q_proj': must be a list, such as [a, b]",
        ),
        ("sft.keep=[1, x]", "sft.keep[1]='x': must be a whole number"),
        ("env.settings=3", "env.settings=3: must be keys and values"),
        ("seed=true", "seed=True: must be a whole number"),
        ("cluster.weight_proof=5", "cluster.weight_proof=5: must be true or false"),
        ("ppo.clip=null", "ppo.clip=None: must be a number"),
        ("name=a/b", "name='a/b' must be a plain folder name"),
        ("name=..", "name='..' must be a plain folder name"),
        ("name=''", "name='' must be a plain folder name"),
        ("eval.variants.x=3", "eval.variants.x=3: must hold environment settings"),
    ],
)
def test_wrong_keys_and_values_are_refused(file, override, words):
    with pytest.raises(ConfigError) as error:
        load(file, [override])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_not_yaml(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no such configuration file.*nearest.*gp_l"):
        load("gp_1")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        load(tmp_path / "list.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not YAML"):
        load(tmp_path / "bytes.yaml")
    (tmp_path / "twice.yaml").write_text("ppo: {updates: 1}\nppo: {epochs: 2}\n")
    with pytest.raises(ConfigError, match="duplicate key ppo"):
        load(tmp_path / "twice.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_a_file_without_a_key_is_one_of_defaults(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    assert load(tmp_path / "mine.yaml", ["ppo.updates=3"]).name == "mine"


def test_yaml_that_is_nested_too_deeply_is_one_sentence(tmp_path, file):
    (tmp_path / "deep.yaml").write_text("a: " + "[" * 1200 + "]" * 1200)
    with pytest.raises(ConfigError, match=r"deep.yaml: not YAML: it is nested too deeply$"):
        load(tmp_path / "deep.yaml")
    with pytest.raises(ConfigError, match=r"^override ppo: the value .* is not YAML$"):
        load(file, ["ppo=" + "[" * 1200 + "]" * 1200])


def test_the_home_folder_of_a_path(file, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    keys = ("cluster.root", "learner.checkpoint_root", "model.path", "sft.data")
    cfg = load(file, [f"{key}=~/x" for key in keys])
    paths = (cfg.cluster.root, cfg.learner.checkpoint_root, cfg.model.path, cfg.sft.data)
    assert paths == ("/home/me/x",) * 4
    assert load(file, ["cluster.root=a~b", "name=~x"]).cluster.root == "a~b"
    assert load(file, ["cluster={root: ~/y}"]).cluster.root == "/home/me/y"


def test_a_key_of_another_dataclass_has_no_place_elsewhere():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        city: str = leaf("x", "a city")

    with pytest.raises(ConfigError, match=r"^s.updates: there is no such key; there are city$"):
        build(Settings, {"updates": 3}, "s")


def test_a_path_that_is_not_there_is_not_a_shipped_name(tmp_path):
    with pytest.raises(ConfigError, match="there is no such configuration file"):
        load(tmp_path / "gp_l.yaml")


def test_bounds_belong_to_the_range(file):
    cfg = load(file, ["ppo.clip=0", "sft.optimizer.warmup=1"])
    assert (cfg.ppo.clip, cfg.sft.optimizer.warmup) == (0.0, 1.0)


def test_a_run_without_training_is_allowed_on_demand(file):
    with pytest.raises(ConfigError, match="leave nothing to train"):
        load(file, ["ppo.updates=0"])
    assert load(file, ["ppo.updates=0"], allow_no_training=True).ppo.updates == 0
    assert load(file, ["ppo.updates=0", "sft.steps=1"]).sft.steps == 1


def test_integers_of_a_union_are_whole_numbers_too():
    @dataclasses.dataclass(frozen=True)
    class Limits:
        most: int | None = leaf(None, "an upper limit")
        share: float | int = leaf(1, "a share")

    assert build(Limits, {"share": 0.5}, "") == Limits(None, 0.5)
    with pytest.raises(ConfigError, match=r"^most=0.5: must be a whole number or null$"):
        build(Limits, {"most": 0.5}, "")


def test_overrides_are_yaml():
    assert parse(["a.b=1", "a.c=[x, 2]", "d=null"]) == {"a": {"b": 1, "c": ["x", 2]}, "d": None}


@pytest.mark.parametrize(
    "text", ["2025_11_25", "007", "1e3", "12:30:45", "yes", "null", "~", "1.50", "0x10", "${x}"]
)
def test_text_is_taken_as_it_stands(tmp_path, text):
    """On the command line, in a file, and in the file that the run folder holds."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: {text} # of the file\nppo: {{updates: 3}}\n")
    for cfg in (load(path), load(path, [f"name={text}"]), load(path, [f"name='{text}'"])):
        assert cfg.name == text
        (tmp_path / "again.yaml").write_text(dump(cfg))
        assert load(tmp_path / "again.yaml") == cfg


@pytest.mark.parametrize("text", ["a: b", "[x", "{x}", "a #b", "*x", "- x", "what's"])
def test_an_override_of_a_text_key_need_not_be_yaml(file, text):
    assert load(file, [f"model.path={text}"]).model.path == text


def test_a_path_that_may_be_null(file):
    for text in ("null", "~", ""):
        assert load(file, [f"model.path={text}"]).model.path is None
    assert load(file, ["model.path='null'"]).model.path == "null"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("ppo.updates=1e3", "ppo.updates", 1000),
        ("ppo.updates=1_000", "ppo.updates", 1000),
        ("seed=007", "seed", 7),
        ("ppo.optimizer.lr=1e-6", "ppo.optimizer.lr", 1e-6),
        ("ppo.clip=1", "ppo.clip", 1.0),
        ("learner.offload=no", "learner.offload", False),
        ("sft.data=/a/b", "sft.data", "/a/b"),
        ("eval.seed='5000000'", "eval.seed", 5_000_000),
    ],
)
def test_numbers_are_read_in_every_usual_form(file, override, key, value):
    read = load(file, [override])
    for name in key.split("."):
        read = getattr(read, name)
    assert (read, type(read)) == (value, type(value))


def test_a_mapping_that_is_no_section_takes_the_place_of_the_files(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "ppo: {updates: 3, epochs: 2}\n"
        "env: {settings: {hands: train, templates: {prompt: p.txt}}}\n"
        "eval: {variants: {held_out: {hands: held_out}}}\n"
    )

    def settings(*overrides):
        return load(path, overrides).env.settings

    other = "env.id=cardinal/VIRL-v0"
    assert settings(other, "env.settings={}") == {}
    assert settings(other, "env={settings: {city: Lagos}}") == {"city": "Lagos"}
    assert settings("env.settings={a: 1}", "env.settings.b=2") == {"a": 1, "b": 2}
    assert settings("env.settings.b=2")["hands"] == "train"
    assert settings("env.settings.templates={answer: a.txt}")["templates"] == {"answer": "a.txt"}
    assert load(path, ["eval.variants={train: {}}"]).eval.variants == {"train": {}}
    assert load(path, ["ppo={epochs: 3}"]).ppo.updates == 3


def test_settings_without_a_declared_type_are_what_they_look_like(file):
    read = load(file, ["env.settings={a: 007, b: 1e3, c: yes, d: 12:30, e: null, f: '5', g: 5}"])
    assert read.env.settings == {
        "a": "007",
        "b": 1000.0,
        "c": "yes",
        "d": "12:30",
        "e": None,
        "f": "5",
        "g": 5,
    }


def test_settings_that_are_text_refuse_what_is_no_longer_as_typed():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        city: str = leaf("x", "a city")

    assert build(Settings, parse(["city=007"]), "s") == Settings("007")
    assert build(Settings, parse(["city=12"]), "s") == Settings("12")
    for text, shown in (("1e3", "1000.0"), ("true", "True")):
        with pytest.raises(ConfigError, match=rf"^s.city={shown}: must be text; quotes make it"):
            build(Settings, parse([f"city={text}"]), "s")
        assert build(Settings, parse([f"city='{text}'"]), "s") == Settings(text)


def test_small_numbers_and_dates_are_what_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_text("name: 2026-11-23\nppo: {updates: 3}\n")
    cfg = load(tmp_path / "a.yaml", ["env.settings.share=1e-1"])
    assert cfg.name == "2026-11-23"
    assert cfg.env.settings == {"share": 0.1}
    assert load(tmp_path / "a.yaml", ["name=2026-11-24"]).name == "2026-11-24"


def test_what_a_dataclass_refuses_itself_names_the_section():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        n: int = leaf(1, "an odd number")

        def __post_init__(self):
            if self.n % 2 == 0:
                raise ValueError(f"n={self.n} must be odd")

    assert build(Odd, {"n": 3}, "here").n == 3
    with pytest.raises(ConfigError, match=r"^here: n=2 must be odd$"):
        build(Odd, {"n": 2}, "here")


@pytest.mark.parametrize("name", [p.stem for p in sorted((ROOT / "configs").glob("*.yaml"))])
def test_every_shipped_configuration_loads(name):
    assert load(name).name == name


def test_loading_imports_nothing_heavy():
    code = (
        "import sys; from configs.load import load; load('gp_l');"
        "heavy = {'torch', 'ray', 'vllm', 'transformers', 'deepspeed'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
