"""The attention of a model: what auto takes, and what is refused in one sentence."""

from __future__ import annotations

import pytest
from transformers import BloomForCausalLM, LlamaForCausalLM

from configs.schema import ModelConfig
from learner import attention
from learner.attention import attention_of, implementations

HALF = {"dtype": "bfloat16"}


@pytest.fixture
def installed(monkeypatch):
    """Packages that are there; a test adds their names."""
    names = set()
    monkeypatch.setattr(attention, "find_spec", lambda name: name if name in names else None)
    return names


class Windowed(LlamaForCausalLM):
    _compatible_flash_implementations = ("flash_attention_3",)
    _supports_flex_attn = False


def test_what_classes_have():
    every = ["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"]
    assert implementations(LlamaForCausalLM) == every
    assert implementations(Windowed) == ["eager", "sdpa", "flash_attention_3"]
    assert implementations(BloomForCausalLM) == ["eager"]


def test_auto_is_flash_where_it_can_run(installed):
    def auto(model=LlamaForCausalLM, gpu=True, **changes):
        return attention_of(model, ModelConfig(**changes), gpu=gpu)

    assert auto(**HALF) == "sdpa"
    installed.add("flash_attn")
    assert auto(**HALF) == "flash_attention_2"
    assert auto(dtype="float32") == "sdpa"
    assert auto(gpu=False, **HALF) == "sdpa"
    assert auto(Windowed, **HALF) == "sdpa"
    assert auto(BloomForCausalLM, **HALF) == "eager"


def test_what_is_named_is_taken_or_refused(installed):
    def named(name, model=LlamaForCausalLM, gpu=True, packages=True):
        cfg = ModelConfig(attention=name, **HALF)
        return attention_of(model, cfg, gpu=gpu, packages=packages)

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
    with pytest.raises(ValueError, match="flex_attention trains on GPUs only"):
        named("flex_attention", gpu=False)
    with pytest.raises(ValueError, match="=sdpa: BloomForCausalLM has eager only"):
        named("sdpa", BloomForCausalLM)
    with pytest.raises(ValueError, match="Windowed has eager, sdpa, flash_attention_3 only"):
        named("flash_attention_2", Windowed)
