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
        ("ppo.updates=many", "ppo.updates: Value 'many' of type 'str' could not be converted"),
        ("ppo.updates=1.5", "ppo.updates=1.5: must be a whole number"),
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
        ("preset=[1]", "preset: Cannot convert"),
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
    with pytest.raises(ConfigError, match=r"^most=0.5: must be a whole number$"):
        build(Limits, {"most": 0.5}, "")


def test_overrides_are_yaml():
    assert parse(["a.b=1", "a.c=[x, 2]", "d=null"]) == {"a": {"b": 1, "c": ["x", 2]}, "d": None}


def test_small_numbers_and_dates_are_what_they_look_like(tmp_path):
    (tmp_path / "a.yaml").write_text("name: 2026-11-23\nppo: {updates: 1}\n")
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
