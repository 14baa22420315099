"""Single keys that trade speed for memory: what bfloat16, checkpointing and offload do."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from configs.contradictions import contradictions
from configs.schema import OptimizerConfig, RunConfig, SFTConfig
from learner.deepspeed_config import deepspeed_config
from learner.engine import TrainingEngine
from learner.sft import sft_step
from tests.support.learner import (
    config,
    demonstrations,
    full_state,
    load_state,
    save_llama,
    save_state,
)
from tests.support.slow import fast


@pytest.fixture
def folder(tmp_path):
    return save_llama(tmp_path / "model")


def trained(folder, cfg: RunConfig, steps: int = 3) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of a few steps, and the weights after them."""
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, True)
    losses = [sft_step(engine, demonstrations(4, i), cfg.sft)["loss"] for i in range(steps)]
    state = full_state(engine)
    engine.close()
    return losses, state


@pytest.mark.parametrize(
    ("stage", "dtype"),
    fast(
        [(1, "float32"), (2, "bfloat16"), (3, "float32")],
        product([1, 2, 3], ["float32", "bfloat16"]),
    ),
)
def test_offload_changes_where_the_state_lies_and_nothing_else(folder, stage, dtype):
    # Without clipping: with offload ZeRO-3 adds up the gradients' norm in another order.
    optimizer = OptimizerConfig(lr=1e-3, max_grad_norm=0.0)
    cfg = config(stage=stage)
    cfg = replace(cfg, model=replace(cfg.model, dtype=dtype), sft=SFTConfig(optimizer=optimizer))
    offloaded = replace(cfg, learner=replace(cfg.learner, offload=True))
    zero = deepspeed_config(offloaded, optimizer, stage)["zero_optimization"]
    assert zero["offload_optimizer"]["device"] == "cpu"
    assert "offload_optimizer" not in deepspeed_config(cfg, optimizer, stage)["zero_optimization"]
    losses, state = trained(folder, cfg)
    offloaded_losses, offloaded_state = trained(folder, offloaded)
    assert offloaded_losses == losses
    assert all(np.array_equal(state[name], offloaded_state[name]) for name in state)


@pytest.mark.parametrize("stage", fast([2, 3], [1, 2, 3]))
def test_what_is_held_at_once_changes_nothing_else(folder, stage, monkeypatch, tmp_path):
    """In sub-groups of two matrices, with re-gathered weights, and resumed."""
    cfg = config(stage=stage)
    losses, state = trained(folder, cfg)
    monkeypatch.setattr("learner.deepspeed_config.AT_ONCE", 4000)
    few, few_state = trained(folder, cfg)
    assert few == pytest.approx(losses, rel=1e-6)
    assert all(np.allclose(state[name], few_state[name], atol=1e-7) for name in state)
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, True)
    sub_groups = len(engine._optimizer.fp16_groups) if stage == 3 else 0
    assert sub_groups > 3 or stage < 3
    sft_step(engine, demonstrations(4, 0), cfg.sft)
    save_state(engine, tmp_path / "state")
    rest = [sft_step(engine, demonstrations(4, i), cfg.sft)["loss"] for i in (1, 2)]
    load_state(engine, tmp_path / "state")
    assert [sft_step(engine, demonstrations(4, i), cfg.sft)["loss"] for i in (1, 2)] == rest
    assert rest == few[1:]
    engine.close()


def test_deepspeed_keeps_the_optimizers_state_on_the_host(folder):
    cfg = config(stage=2)
    cfg = replace(cfg, learner=replace(cfg.learner, offload=True))
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, True)
    assert engine._deepspeed.zero_use_cpu_optimizer()
    sft_step(engine, demonstrations(4), cfg.sft)
    held = [t for state in engine._optimizer.state.values() for t in state.values()]
    assert held
    assert {t.device.type for t in held if torch.is_tensor(t)} == {"cpu"}
    engine.close()


def test_offload_without_zero_is_refused():
    cfg = config(stage=0)
    cfg = replace(cfg, learner=replace(cfg.learner, offload=True))
    (sentence,) = [s for s in contradictions(cfg) if "offload" in s]
    assert sentence.startswith("learner.offload=true needs learner.zero_stage of 1 to 3")
    staged = replace(cfg, learner=replace(cfg.learner, zero_stage=1))
    assert not any("offload" in s for s in contradictions(staged))


def test_checkpointing_computes_every_layer_twice(folder):
    calls = {}
    for checkpointing in (False, True):
        cfg = config()
        cfg = replace(cfg, model=replace(cfg.model, gradient_checkpointing=checkpointing))
        engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, False)
        seen = []
        layers = engine.model.trunk.model.layers
        for layer in layers:
            layer.self_attn.register_forward_hook(
                lambda *_, s=seen: s.append(torch.is_grad_enabled())
            )
        sft_step(engine, demonstrations(2), cfg.sft)
        calls[checkpointing] = len(seen) / len(layers)
        engine.close()
    assert calls == {False: 1, True: 2}


def test_bfloat16_holds_half_the_bytes(folder):
    held = {}
    for dtype in ("float32", "bfloat16"):
        cfg = config()
        cfg = replace(cfg, model=replace(cfg.model, dtype=dtype))
        engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 10, False)
        held[dtype] = sum(p.numel() * p.element_size() for p in engine.model.parameters())
        before = engine.score(engine.microbatches(demonstrations(2)))[0].logprobs
        loss = sft_step(engine, demonstrations(2), cfg.sft)["loss"]
        after = engine.score(engine.microbatches(demonstrations(2)))[0].logprobs
        assert np.isfinite(loss)
        assert not torch.equal(before, after)  # the step reached the weights that score
        engine.close()
    assert held["float32"] == 2 * held["bfloat16"]
