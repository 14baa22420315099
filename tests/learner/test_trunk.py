"""The trunk in a folder: without dropout, with weights or empty, and what cannot be trained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from learner.model import load_actor_critic
from learner.trunk import check_dtype, empty_trunk, load_trunk, model_class, model_config
from tests.support.families import Family, save_tiny
from tests.support.learner import config, save_llama


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path)


def configure(folder, **changed):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_dropout_is_off(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    trunk = load_trunk(tmp_path, torch.float32, "sdpa").train()
    ids = torch.arange(8)[None]
    assert torch.equal(trunk(ids).logits, trunk(ids).logits)


def test_an_empty_trunk_is_the_loaded_one_without_weights(folder):
    loaded, empty = load_trunk(folder, torch.float32, "sdpa"), empty_trunk(folder)
    shapes = {name: weight.shape for name, weight in loaded.named_parameters()}
    assert {name: weight.shape for name, weight in empty.named_parameters()} == shapes
    assert {weight.device.type for weight in empty.parameters()} == {"meta"}
    assert (loaded.config._attn_implementation, empty.config._attn_implementation) == (
        "sdpa",
        "eager",  # no package is needed to make it
    )


def test_a_folder_without_a_model_is_refused(tmp_path, folder):
    for load in (empty_trunk, lambda place: load_trunk(place, torch.float32, "sdpa")):
        with pytest.raises(ValueError, match=r"no config\.json"):
            load(tmp_path / "nowhere")
    assert model_class(model_config(folder)) is LlamaForCausalLM
    for names, words in ((["GPT2LMHeadModel"], "GPT2LMHeadModel"), (None, "of no named kind")):
        configure(folder, architectures=names)
        with pytest.raises(ValueError, match=f"^the model is {words}; .* are LlamaForCausalLM$"):
            empty_trunk(folder)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("ernie4_5_moe", "Ernie4_5_MoeForCausalLM"),  # transformers has a list of them
        ("hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM"),  # the class makes them so
    ],
)
def test_a_dtype_that_would_round_what_transformers_keeps_is_refused(tmp_path, family, name):
    """What transformers itself leaves in float32 of a model that it loads in bfloat16."""
    folder = save_tiny(Family(family, name, vision=False), tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    kept = [key for key, p in plain.named_parameters() if p.dtype == torch.float32]
    assert len(kept) > 1
    words = f"{name} keeps {kept[0]} and {len(kept) - 1} others in float32"
    cfg, half = config(), replace(config().model, dtype="bfloat16")
    check_dtype(empty_trunk(folder, torch.float32), torch.float32)
    with pytest.raises(ValueError, match=f"^{words}, which model.dtype=bfloat16 would round"):
        check_dtype(empty_trunk(folder, torch.bfloat16), torch.bfloat16)
    with pytest.raises(ValueError, match=words):
        load_actor_critic(folder, replace(cfg, model=half), (), None)


def test_a_model_without_such_parameters_may_be_in_bfloat16(folder):
    check_dtype(empty_trunk(folder, torch.bfloat16), torch.bfloat16)


@pytest.mark.parametrize("prefix_lm", [True, False])
def test_a_model_that_reads_ahead_in_its_prompts_is_refused(folder, prefix_lm):
    """Whatever it says: vLLM's class of such models does not ask."""
    configure(folder, prefix_lm=prefix_lm)
    words = r"^LlamaForCausalLM cannot be trained: vLLM lets its prompts read ahead \(prefix_lm\)"
    with pytest.raises(ValueError, match=words):
        empty_trunk(folder)
    with pytest.raises(ValueError, match=words):
        load_trunk(folder, torch.float32, "sdpa")
