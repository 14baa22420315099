"""The model's class, before anything starts: what the learner cannot train is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cluster.preflight.trainable import check_trainable
from configs.load import ConfigError, build
from configs.model_folder import weight_shapes
from configs.schema import RunConfig
from tests.support.families import Family, save_tiny


def run(folder, **model):
    return build(RunConfig, {"model": {"path": str(folder), **model}}, "")


def test_a_model_that_can_be_trained_passes(tiny_model, vision_model):
    for folder in (tiny_model, vision_model):
        check_trainable(run(folder), gpu=False, packages=True)
        check_trainable(run(folder, attention="eager"), gpu=False, packages=True)
    check_trainable(build(RunConfig, {}, ""), gpu=False, packages=True)


def test_attention_is_checked_against_device_and_packages(tiny_model):
    flash = run(tiny_model, attention="flash_attention_2", dtype="bfloat16")
    with pytest.raises(ConfigError, match=f"^model.path={tiny_model}: .* trains on GPUs only"):
        check_trainable(flash, gpu=False, packages=False)
    with pytest.raises(ConfigError, match="needs the package flash_attn"):
        check_trainable(flash, gpu=True, packages=True)
    check_trainable(flash, gpu=True, packages=False)  # for a cluster: this machine has none


def test_a_class_that_its_configuration_does_not_have_is_named(tiny_model, tmp_path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ConfigError, match=r"is GPT2LMHeadModel; .* for llama are LlamaForCausalLM"):
        check_trainable(run(folder), gpu=False, packages=True)


def test_a_model_that_reads_ahead_is_refused(tmp_path):
    family = Family("paligemma", "PaliGemmaForConditionalGeneration", vision=True)
    folder = save_tiny(family, tmp_path)
    with pytest.raises(ConfigError, match=r"PaliGemmaForConditionalGeneration .* is not causal"):
        check_trainable(run(folder), gpu=False, packages=True)


def test_a_dtype_that_would_round_a_router_is_refused(tmp_path):
    folder = save_tiny(Family("ernie4_5_moe", "Ernie4_5_MoeForCausalLM", vision=False), tmp_path)
    check_trainable(run(folder), gpu=True, packages=False)
    with pytest.raises(ConfigError, match=r"in float32, which model\.dtype=bfloat16 would"):
        check_trainable(run(folder, dtype="bfloat16"), gpu=True, packages=False)


@pytest.mark.parametrize("prefix_lm", [True, False])  # vLLM's class does not ask
def test_a_model_that_reads_ahead_in_its_prompts_is_refused(tmp_path, prefix_lm):
    folder = save_tiny(Family("hrm_text", "HrmTextForCausalLM", vision=False), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"prefix_lm": prefix_lm}))
    with pytest.raises(ConfigError, match=r"HrmTextForCausalLM cannot be trained: .*\(prefix_lm\)"):
        check_trainable(run(folder), gpu=False, packages=True)


def test_a_picture_is_tried_where_the_run_shows_one(vision_model, monkeypatch):
    from learner import image_inputs

    def refuse(folder, trunk):
        raise ValueError(f"{type(trunk).__name__} has four axes")

    monkeypatch.setattr(image_inputs, "check_pictures", refuse)
    check_trainable(run(vision_model), gpu=False, packages=True)
    with pytest.raises(ConfigError, match="Idefics3ForConditionalGeneration has four axes"):
        check_trainable(run(vision_model), gpu=False, packages=True, pictures=True)


def test_weights_that_cannot_be_published_are_refused(tiny_model, monkeypatch):
    from learner import checkpoint_layout

    def refuse(trunk):
        raise ValueError(f"{type(trunk).__name__}: merges\nlayers")

    monkeypatch.setattr(checkpoint_layout, "CheckpointLayout", refuse)
    with pytest.raises(ConfigError, match=r"LlamaForCausalLM: merges layers$"):
        check_trainable(run(tiny_model), gpu=False, packages=True)


def test_adapters_need_linear_layers_of_the_class(tmp_path):
    """Files hold matrices; the class may have no linear layers of them (Conv1D, merged experts)."""
    gpt2 = save_tiny(Family("gpt2", "GPT2LMHeadModel", vision=False), tmp_path / "gpt2")
    mixtral = save_tiny(Family("mixtral", "MixtralForCausalLM", vision=False), tmp_path / "moe")
    with pytest.raises(ConfigError, match=r"model\.lora_rank=4: GPT2LMHeadModel has no linear"):
        check_trainable(run(gpt2, lora_rank=4), gpu=False, packages=True)
    experts = run(mixtral, lora_rank=4, lora_targets=["q_proj", "w1"])
    with pytest.raises(ConfigError, match=r"model\.lora_targets=w1: no linear layer that learns"):
        check_trainable(experts, gpu=False, packages=True)
    for targets in ([], ["q_proj"]):
        cfg = run(mixtral, lora_rank=4, lora_targets=targets)
        check_trainable(cfg, gpu=False, packages=True)
    check_trainable(run(gpt2), gpu=False, packages=True)


def test_adapters_of_a_frozen_part_are_refused(vision_model):
    target = next(
        name.split(".")[-2]
        for name in weight_shapes(Path(vision_model), "")
        if "vision_model" in name and name.endswith("fc1.weight")
    )
    cfg = run(vision_model, lora_rank=4, lora_targets=[target])
    check_trainable(cfg, gpu=False, packages=True)
    cfg = run(vision_model, lora_rank=4, lora_targets=[target], freeze="vision")
    with pytest.raises(ConfigError, match=f"model.lora_targets={target}: no linear layer that"):
        check_trainable(cfg, gpu=False, packages=True)


@pytest.fixture
def folder(tiny_model, tmp_path):
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def refused(folder, sentence):
    with pytest.raises(ConfigError, match=rf"^model\.path={folder}: {sentence}"):
        check_trainable(run(folder), gpu=False, packages=True)


def test_weights_of_another_configuration_are_refused(folder):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": 1}))
    refused(folder, r".* LlamaForCausalLM in config\.json: model\.layers\.1\..* is none of its")
    file.write_text(json.dumps(config | {"vocab_size": 7}))
    refused(folder, r".* lm_head\.weight is \d+ x 128 and must be 7 x 128; model\.embed_tokens")


def test_a_tensor_that_is_missing_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r".* config\.json: model\.norm\.weight is absent and must be 128$")


def test_a_truncated_file_and_an_index_of_absent_shards_are_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    refused(folder, r"model\.safetensors is damaged: ")
    file.unlink()
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, r"holds no model-00001-of-00002\.safetensors")
