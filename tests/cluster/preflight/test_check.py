"""`cardinal check`: what cannot be is said in one line, quickly, before anything starts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.failures import PlacementError
from cluster.placement.plan import Node, plan
from cluster.preflight import check as checking
from cluster.preflight.check import (
    available_bytes,
    check,
    check_root,
    environments,
    memory_bytes,
    model_size,
    process_needs,
    show,
)
from configs.load import ConfigError, load
from configs.model_folder import ModelSize, check_model
from tests.support.paths import ROOT


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
        check(cfg)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_the_resolved_run(capsys):
    resolved = check(debug())
    assert resolved.longest_prompt.keys() == {"rollout", "eval/train", "eval/held_out"}
    assert sum(p.cpus for p in resolved.plan.places) == 2.5
    show(resolved)
    shown = capsys.readouterr().out
    for word in ("rollout worker", "learner optimizer", "engine KV cache", "parameters"):
        assert word in shown


def test_parameters_are_counted_as_torch_counts_them(tiny_model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    true = sum(p.numel() for p in model.parameters())
    found = model_size(with_model(tiny_model), check_model(tiny_model), range(10)).parameters
    init = ["model.init.layers=2", "model.init.hidden=128", "model.init.heads=4"]
    tokens = AutoTokenizer.from_pretrained(tiny_model)
    made = model_size(debug(*init, "model.init.mlp=256"), None, tokens).parameters
    assert made == found
    assert sum(made.values()) - made["value head"] == true
    assert "value head" not in model_size(debug("ppo.updates=0"), None, tokens).parameters


def test_the_value_head_is_counted_as_torch_counts_it(tiny_model):
    from learner.model import ValueHead

    true = sum(p.numel() for p in ValueHead(128, 0).parameters())
    size = model_size(with_model(tiny_model), check_model(tiny_model), range(10))
    assert size.parameters["value head"] == true


def test_zero_stages_share_memory():
    cfgs = [debug("learner.ranks=2", f"learner.zero_stage={stage}") for stage in range(4)]
    size = ModelSize({"all": 10**6}, 1, 8, 100, None)
    found = [memory_bytes(cfg, size) for cfg in cfgs]
    assert [m["learner optimizer"] for m in found] == [16 * 10**6, *[8 * 10**6] * 3]
    assert [m["learner gradients"] for m in found] == [8 * 10**6] * 2 + [4 * 10**6] * 2
    assert [m["learner weights"] for m in found] == [8 * 10**6] * 3 + [4 * 10**6]


def test_the_control_group_limits_memory_and_file_cache_is_free(tmp_path):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 600000\n")
    assert available_bytes(tmp_path) == 700000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 10**8
    assert available_bytes(tmp_path / "none") > 10**8


def test_environments_are_named_and_merged():
    played = environments(debug("eval.variants.hard.face_rule=ranks"))
    assert played["eval/hard"][1]["face_rule"] == "ranks"
    assert played["eval/hard"][1]["prompt_style"] == "brief"
    assert played["rollout"][1]["preset"] == "fixed"


def test_what_a_process_needs_on_its_host_and_on_its_gpu():
    cfg = debug("rollout.workers=2", "learner.ranks=2", "learner.zero_stage=3")
    size = ModelSize({"all": 10**9}, 1, 8, 100, None)
    bare = [Node("a", "a", {"CPU": 8}, {})]
    host = process_needs(cfg, size, bare)
    gpu = process_needs(cfg, size, [Node("b", "b", {"CPU": 8, "GPU": 8}, {}), *bare])
    assert host.rank > 8 * 10**9
    assert host.worker > 4 * 10**9
    assert host.rank_device == 0
    assert gpu.worker_device == 4 * 10**9 == gpu.weights
    assert gpu.rank < 2**30
    assert gpu.rank_device == pytest.approx(8 * 10**9, rel=0.01)


def test_several_nodes_want_a_folder_that_all_of_them_see():
    nodes = [Node(name, name, {"CPU": 1}, {"CPU": 1}) for name in "abc"]
    cfg = load("gp_l_debug", ["cluster.root=runs"])
    with pytest.raises(PlacementError) as error:
        check_root(cfg, plan(cfg, nodes))
    assert "cluster.root=runs: the run spans 3 nodes without shared storage" in str(error.value)
    check_root(debug(), plan(debug(), nodes))
    check_root(cfg, plan(cfg, [Node("a", "a", {"CPU": 4}, {"CPU": 4})]))


def test_bad_environment_settings():
    refused(debug("env.settings.face_rul=ten"), "env.settings.face_rul", "nearest is face_rule")
    refused(debug("eval.variants.x.face_rule=eleven"), "eval.variants.x.face_rule=eleven")
    refused(debug("env.id=cardinal/GeneralPints-v0"), "cardinal/GeneralPints-v0")
    refused(debug("env.settings.suits=red"), "env.settings: GeneralPoints: suits needs modality")
    refused(debug("eval.variants.x.suits=red"), "eval.variants.x: GeneralPoints: suits needs")
    refused(debug("env.id=nomodule:X-v0"), "nomodule:X-v0")


def test_an_environment_without_text_needs_a_model(tmp_path):
    (tmp_path / "plain.yaml").write_text(
        "env: {id: CartPole-v1}\nppo: {updates: 1}\neval: {variants: {a: {}}}\n"
    )
    refused(load(tmp_path / "plain.yaml"), "env.id=CartPole-v1", "set model.path")
    cfg = load(tmp_path / "plain.yaml", ["env.settings.gravty=1"])
    refused(cfg, "env.settings: CartPole-v1 cannot be made", "gravty")


def test_models_too_small_for_the_run(model):
    refused(with_model("/nowhere/at/all"), "model.path=/nowhere/at/all", "no such folder")
    refused(with_model(model, "rollout.context_tokens=4096"), "rollout.context_tokens=4096", "1024")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    refused(with_model(model), "its tokenizer has", "more than the 100")


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


def test_a_tokenizer_without_chat_template(model):
    (model / "chat_template.jinja").unlink(missing_ok=True)
    without(model, "chat_template")
    refused(with_model(model), "model.path=", "has no chat template")


def test_a_tokenizer_without_an_end_token(model):
    without(model, "eos_token")
    check(with_model(model))  # generation_config.json still says what ends an answer
    (model / "generation_config.json").unlink()
    refused(with_model(model), f"model.path={model}: ", "has no eos_token")


def test_a_context_too_short_for_the_prompt():
    cfg = debug("rollout.context_tokens=16", "rollout.answer_tokens=8")
    refused(cfg, "rollout.context_tokens=16: too short for variant rollout", "at least 1")


def test_too_little_memory(monkeypatch):
    monkeypatch.setattr(checking, "available_bytes", lambda: 2**30)
    refused(debug(), "too little memory", "this machine has 1.0 GiB free", "engine KV cache")


def test_demonstrations_that_cannot_be_used(tmp_path):
    cfg = debug(f"sft.data={tmp_path}")
    refused(cfg, "sft.data=", "*.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    refused(cfg, "a.parquet has no column messages")
    for messages in (["a"], [["a"]], [[{"role": "user", "content": "a"}]]):
        pq.write_table(pa.table({"messages": messages * 32}), tmp_path / "a.parquet")
        refused(cfg, "column messages is ", "it must be a list of role, content and train")
    one = [{"role": "user", "content": "a", "train": False}]
    pq.write_table(pa.table({"messages": [one]}), tmp_path / "a.parquet")
    refused(cfg, "holds 1 demonstrations, sft.batch_size=32")
    pq.write_table(pa.table({"messages": [one] * 31}), tmp_path / "b.parquet")
    check(cfg)
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    refused(cfg, "b.parquet: ")


def test_a_release_that_cannot_be_used(tmp_path):
    file = tmp_path / "a.json"
    cfg = debug(f"sft.data={file}")
    refused(cfg, f"sft.data={file}: must be a folder")
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    file.write_text(json.dumps([{"conversations": turns}] * 31))
    refused(cfg, f"sft.data={file}: holds 31 demonstrations, sft.batch_size=32")
    file.write_text(json.dumps([{"conversations": turns}] * 31 + [{"conversations": 3}]))
    refused(cfg, "record 31: field conversations")
    file.write_text(json.dumps([{"conversations": turns}] * 32))
    check(cfg)


def test_a_taken_run_folder(tmp_path):
    cfg = debug("name=mine", f"cluster.root={tmp_path}")
    (tmp_path / "mine").mkdir()
    check(cfg)
    (tmp_path / "mine" / "config.yaml").write_text("seed: 0")
    refused(cfg, "name=mine: the run folder", "is taken", "cardinal resume")
    (tmp_path / "file").write_text("")
    refused(debug("name=file", f"cluster.root={tmp_path}"), "name=file: the run folder")


SEES = ("env.settings.modality=vision", "env.settings.image_size=128")


def test_a_run_with_pictures(capsys):
    resolved = check(debug(*SEES))
    assert resolved.parameters["vision"] > 10**5
    show(resolved)
    assert "vision" in capsys.readouterr().out


def test_pictures_for_a_model_of_text(tiny_model):
    refused(with_model(tiny_model, *SEES), "env.settings", "text alone", "vision-language")


def test_pictures_that_the_processor_would_shrink():
    refused(debug(SEES[0], "env.settings.image_size=160"), "160 x 160", "128")


def test_a_template_that_gives_pictures_no_token(vision_model, tmp_path):
    folder = tmp_path / "blind"
    shutil.copytree(vision_model, folder)
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("<image>", ""))
    refused(with_model(str(folder), *SEES), "0 of the picture token <image>", "1 pictures")


def test_eyes_whose_sizes_do_not_divide():
    refused(debug(*SEES, "model.init.vision.patch_size=12"), "model.init.vision", "multiple of")


def test_it_answers_in_ten_seconds_and_imports_no_engine():
    code = (
        "import sys, time; from cluster.cli import main;"
        "code = main(['check', 'gp_l', 'cluster.root=/nowhere']);"
        "print(code, [m for m in ('ray', 'vllm', 'deepspeed') if m in sys.modules]);"
        "print(time.process_time())"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    *_, answer, seconds = found.stdout.splitlines()
    assert answer == "0 []", found.stderr
    assert float(seconds) < 10  # of CPU: others may share the machine's cores
