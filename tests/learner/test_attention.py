"""The attention of a model: what auto takes, and what is refused in one sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from configs.schema import ModelConfig, RunConfig
from learner import attention
from learner.attention import attention_of, implementations
from learner.model import ForwardOptions, load_actor_critic
from tests.support.learner import demonstrations

HALF = {"dtype": "bfloat16"}
SIZES = {
    **dict.fromkeys(("vocab_size", "hidden_size", "intermediate_size"), 48),
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1},
}


class Windowed(LlamaForCausalLM):
    _compatible_flash_implementations = ("flash_attention_3",)
    _supports_flex_attn = False


def empty(cls, config) -> PreTrainedModel:
    with torch.device("meta"):
        return cls._from_config(config, attn_implementation="eager")


LLAMA = empty(LlamaForCausalLM, LlamaConfig(**SIZES))
WINDOWED = empty(Windowed, LlamaConfig(**SIZES))
LARGEST_HEADS = empty(LlamaForCausalLM, LlamaConfig(**SIZES, head_dim=256))
LARGE_HEADS = empty(LlamaForCausalLM, LlamaConfig(**SIZES, head_dim=288))
BLOOM = empty(BloomForCausalLM, BloomConfig(vocab_size=48, hidden_size=48, n_layer=1, n_head=2))
CAPPED = empty(Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=32))
UNCAPPED = empty(Gemma2ForCausalLM, Gemma2Config(**SIZES, head_dim=32, attn_logit_softcapping=None))


@pytest.fixture
def installed(monkeypatch):
    """Packages that are there; a test adds their names."""
    names = set()
    monkeypatch.setattr(attention, "find_spec", lambda name: name if name in names else None)
    return names


def settings(packing="auto", **model) -> RunConfig:
    cfg = RunConfig(model=ModelConfig(**model))
    return replace(cfg, learner=replace(cfg.learner, packing=packing))


def test_what_classes_have():
    every = ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
    assert implementations(LlamaForCausalLM) == every
    assert implementations(Windowed) == ["eager", "sdpa", "flash_attention_3"]
    assert implementations(BloomForCausalLM) == ["eager"]


def auto(trunk=LLAMA, gpu=True, packing="auto", **model):
    return attention_of(trunk, settings(packing, **model), gpu=gpu)


def test_auto_is_flash_where_it_can_run(installed):
    assert auto(**HALF) == "sdpa"
    installed.add("flash_attn")
    assert auto(**HALF) == "flash_attention_2"
    assert auto(dtype="float32") == "sdpa"
    assert auto(gpu=False, **HALF) == "sdpa"
    assert auto(WINDOWED, **HALF) == "sdpa"
    assert auto(BLOOM, **HALF) == "eager"
    assert auto(LARGEST_HEADS, **HALF) == "flash_attention_2"
    assert auto(LARGE_HEADS, **HALF) == "sdpa"
    assert auto(packing="padded", **HALF) == auto(packing="flat", **HALF) == "flash_attention_2"
    assert auto(packing="packed", **HALF) == "sdpa"  # flash mixes up such rows


def test_auto_leaves_no_cap_of_the_logits_out(installed):
    assert auto(CAPPED, gpu=False) == "eager"
    assert auto(UNCAPPED, gpu=False) == "sdpa"
    assert auto(CAPPED, **HALF) == "eager"
    installed.add("flash_attn")
    assert auto(CAPPED, **HALF) == "flash_attention_2"


def test_what_is_named_is_taken_or_refused(installed):
    def named(name, trunk=LLAMA, gpu=True, packages=True):
        return attention_of(trunk, settings(attention=name, **HALF), gpu=gpu, packages=packages)

    assert named("eager", gpu=False) == "eager"
    assert named("sdpa", gpu=False) == "sdpa"
    assert named("flex_attention") == "flex_attention"
    for name, package in attention.PACKAGES.items():
        with pytest.raises(ValueError, match=f"attention={name} needs the package {package}, "):
            named(name)
        assert named(name, packages=False) == name
        installed.add(package)
        assert named(name) == name
        with pytest.raises(ValueError, match=f"attention={name} trains on GPUs only"):
            named(name, gpu=False)
        with pytest.raises(
            ValueError, match=rf"={name}: LlamaForCausalLM has heads of 288, .* 256"
        ):
            named(name, LARGE_HEADS)
    with pytest.raises(ValueError, match="flex_attention trains on GPUs only"):
        named("flex_attention", gpu=False)
    with pytest.raises(ValueError, match="=sdpa: BloomForCausalLM has eager only"):
        named("sdpa", BLOOM)
    with pytest.raises(ValueError, match="Windowed has eager, sdpa, flash_attention_3 only"):
        named("flash_attention_2", WINDOWED)
    capped = (
        r"=sdpa: Gemma2ForCausalLM has attn_logit_softcapping=50\.0, which sdpa would leave out"
    )
    with pytest.raises(ValueError, match=capped):
        named("sdpa", CAPPED)
    assert named("sdpa", UNCAPPED) == "sdpa"
    assert named("eager", CAPPED) == "eager"


def test_a_capped_model_scores_as_its_eager_attention_does(tmp_path):
    """With a cap that is felt: what the learner loads has the eager class's log-probabilities."""
    torch.manual_seed(0)
    config = Gemma2Config(**SIZES, head_dim=32, attn_logit_softcapping=0.5, initializer_range=0.5)
    plain = Gemma2ForCausalLM._from_config(config, attn_implementation="eager").eval()
    plain.save_pretrained(tmp_path)
    actor = load_actor_critic(tmp_path, RunConfig(), (), None)
    ids = torch.from_numpy(demonstrations(1)[0].token_ids).long()[None]
    actions, positions = torch.arange(1, ids.shape[1]), torch.arange(ids.shape[1])[None]
    none = torch.zeros(0, dtype=torch.long)
    with torch.no_grad():
        logprobs = actor(ids, positions, actions, none, ForwardOptions())[0]
        expected = plain(ids).logits[0, :-1].log_softmax(-1)
    assert torch.allclose(logprobs, expected.gather(-1, ids[0, 1:, None])[:, 0], atol=1e-4)


def shared(trunk, ranks, **model):
    cfg = settings(**model)
    cfg = replace(cfg, learner=replace(cfg.learner, ranks=ranks, sequence_parallel=ranks))
    return attention_of(trunk, cfg, gpu=False)


def test_rows_are_shared_out_by_heads():
    def grouped(heads, keys):
        sizes = SIZES | {"num_attention_heads": heads, "num_key_value_heads": keys}
        return empty(LlamaForCausalLM, LlamaConfig(**sizes))

    assert shared(grouped(4, 2), 2) == "ulysses"
    assert shared(grouped(4, 4), 4, attention="sdpa") == "ulysses"
    said = (
        r"^learner\.sequence_parallel={} must divide the heads of LlamaForCausalLM, {} of .* {} of"
    )
    for heads, keys, ranks in ((4, 2, 4), (4, 4, 3), (4, 1, 2)):
        with pytest.raises(ValueError, match=said.format(ranks, heads, keys)):
            shared(grouped(heads, keys), ranks)


class Seeing(LlamaForCausalLM):
    """As far as its configuration says."""


def test_rows_of_other_models_are_not():
    with pytest.raises(ValueError, match=r"=2 computes attention by sdpa: BloomFor.* has eager on"):
        shared(BLOOM, 2)
    with pytest.raises(ValueError, match=r"=2 .* by sdpa: Gemma2.* has attn_logit_softcapping=50"):
        shared(CAPPED, 2)
    seeing = empty(Seeing, LlamaConfig(**SIZES))
    seeing.config.vision_config = {"hidden_size": 8}
    with pytest.raises(ValueError, match=r"=2 shares out rows of text, and Seeing sees pictures"):
        shared(seeing, 2)
