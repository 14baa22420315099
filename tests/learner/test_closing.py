"""A closed engine holds nothing: neither weights nor optimizer nor gradients."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from configs.schema import RunConfig
from learner import closing
from learner.closing import free
from learner.engine import ReferencePolicy, TrainingEngine
from learner.sft import sft_step
from tests.support.learner import config, demonstrations, save_llama, spawn
from tests.support.slow import fast

SETTINGS = [  # ZeRO stage, dtype, offload
    (0, "float32", False),
    (1, "float32", False),
    (1, "bfloat16", False),
    (2, "float32", True),
    (2, "bfloat16", False),
    (3, "float32", False),
    (3, "bfloat16", False),
    (3, "bfloat16", True),
]
FEW = [SETTINGS[n] for n in (0, 2, 3, 7)]  # each stage, dtype and place


Tensors = dict[int, weakref.ref[torch.Tensor]]


def configured(stage: int, dtype: str, offload: bool) -> RunConfig:
    cfg = config(stage=stage, budget=60)
    return replace(
        cfg,
        model=replace(cfg.model, dtype=dtype),
        learner=replace(cfg.learner, packing="padded", offload=offload),
        sft=replace(cfg.sft, loss="ce_kl"),
    )


def tensors() -> Tensors:
    """Those that there are, by identity."""
    return {id(t): weakref.ref(t) for t in gc.get_objects() if issubclass(type(t), torch.Tensor)}


def held_since(before: Tensors, engine: TrainingEngine) -> list[weakref.ref[torch.Tensor]]:
    """Tensors made since then, the engine's weights and moments among them."""

    def old(name: int, ref: weakref.ref[torch.Tensor]) -> bool:
        return name in before and before[name]() is ref()

    made = {name: ref for name, ref in tensors().items() if not old(name, ref)}
    optimizer = engine._optimizer
    states = getattr(optimizer, "optimizer", optimizer).state.values()
    assert made.keys() >= {id(p) for p in engine.model.parameters()}
    assert made.keys() >= {id(state["exp_avg"]) for state in states}
    return list(made.values())


def phase(folder: Path, cfg: RunConfig) -> tuple[list[weakref.ref[torch.Tensor]], TrainingEngine]:
    """Two steps beside a reference, and the end; the tensors that were there before it.

    The engine is given back, as a caller may hold it on.
    """
    before = tensors()
    engine = TrainingEngine(folder, cfg, cfg.sft.optimizer, 2, True)
    reference = ReferencePolicy(folder, cfg)
    for step in range(2):
        sft_step(engine, demonstrations(6, step), cfg.sft, reference)
    held = held_since(before, engine)
    engine.close(reference)
    return held, engine


def check(folder: Path, cfg: RunConfig) -> None:
    """Of two engines in turn, the first has left nothing when the second begins, nor the second."""
    closed = []
    for _ in range(2):
        held, engine = phase(folder, cfg)
        closed.append(engine)
        left = [tuple(ref().shape) for ref in held if ref() is not None]
        assert not left, (cfg.learner.zero_stage, cfg.model.dtype, left)


@pytest.mark.parametrize(("stage", "dtype", "offload"), fast(FEW, SETTINGS))
def test_a_closed_engine_holds_nothing(stage, dtype, offload, tmp_path):
    check(save_llama(tmp_path), configured(stage, dtype, offload))


def two_ranks(_: int, folder: Path) -> None:
    for setting in ((2, "bfloat16", False), (3, "bfloat16", False)):
        check(folder, configured(*setting))


@pytest.mark.slow
def test_nor_do_two_ranks_or_the_shards_of_their_reference(tmp_path):
    spawn(two_ranks, 2, save_llama(tmp_path))


def test_what_is_freed_goes_back_to_the_device_and_the_system(monkeypatch):
    """A stand-in for an accelerator: all caches are emptied after the cycles are collected."""

    class Policy:
        def __init__(self) -> None:
            self.modules: list[object] = [torch.zeros(3)]
            self.modules.append(self.modules)

    emptied = []
    policies = Policy(), None
    weights = weakref.ref(policies[0].modules[0])
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    for name in ("empty_cache", "empty_host_cache"):
        monkeypatch.setattr(
            torch.accelerator, name, lambda name=name: emptied.append((name, weights() is None))
        )
    monkeypatch.setattr(
        closing, "return_freed_memory", lambda: emptied.append(("malloc", weights() is None))
    )
    free(*policies)
    assert sorted(emptied) == [(n, True) for n in ("empty_cache", "empty_host_cache", "malloc")]
