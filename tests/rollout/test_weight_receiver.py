"""What the receiver does once it knows which copies an update is; engines are in test_engine.py."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch


@pytest.mark.parametrize(
    ("plan", "cpu", "kept"), [("copies", True, 1), (None, True, 0), ("copies", False, 0)]
)
def test_memory_of_replaced_weights_is_kept_where_a_cpu_packs_them_in_each_update(
    monkeypatch, plan, cpu, kept
):
    """Not before the first update has ended: what a whole load freed would be kept too."""
    from rollout import weight_receiver as module

    class Recorder(nullcontext):
        def plan(self, *_):
            return plan

    calls = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr(module, "finalize_layerwise_reload", lambda *_: calls.append("loaded"))
    monkeypatch.setattr(module, "current_platform", SimpleNamespace(is_cpu=lambda: cpu))
    receiver = object.__new__(module.ObjectStoreReceiver)
    receiver.model, receiver.model_config = torch.nn.Linear(1, 1), None
    receiver.vllm_config = SimpleNamespace(model_config=SimpleNamespace(enable_sleep_mode=False))
    receiver.plan, receiver._recorder, receiver._expert_kernels = None, Recorder(), []
    receiver._files = SimpleNamespace(close=lambda: None)
    receiver.finish_weight_update()
    assert calls == ["loaded", *["kept"] * kept]
    assert receiver.plan == plan
