"""The trainer's side of vLLM's channels: sizes, settings, and a source that vLLM reads."""

from __future__ import annotations

import sys

import pytest
import torch

from learner import weight_sender
from learner.weight_sender import (
    TransferSpec,
    buffer_bytes,
    open_sender,
    payload_bytes,
    trainer_init_info,
    weight_source,
)

SHAPES = [("a", torch.bfloat16, (10, 10)), ("b", torch.float32, (2,))]


def test_the_buffer_holds_the_largest_tensor():
    assert payload_bytes(SHAPES) == 208
    assert buffer_bytes(SHAPES, 100) == 200
    assert buffer_bytes(SHAPES, 1000) == 1000


def test_init_info_of_vllm():
    nccl = trainer_init_info(TransferSpec("nccl", 1, 1000, "10.0.0.1", 1234, 5))
    assert (nccl.backend, nccl.master_address, nccl.master_port) == ("nccl", "10.0.0.1", 1234)
    assert (nccl.world_size, nccl.packed, nccl.packed_buffer_size_bytes) == (5, True, 1000)
    assert not nccl.is_sender
    ipc = trainer_init_info(TransferSpec("ipc", 0, 1000))
    assert (ipc.backend, ipc.packed, ipc.packed_buffer_size_bytes) == ("ipc", True, 1000)
    assert ipc.is_sender
    with pytest.raises(ValueError, match="vLLM's own are nccl and ipc"):
        trainer_init_info(TransferSpec("object_store", 0, 1000))


def test_a_vllm_without_a_trainers_side(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_engine", None)
    with pytest.raises(ValueError, match=r"cluster\.channel=nccl needs vLLM"):
        trainer_init_info(TransferSpec("nccl", 0, 1000))


def tensors():
    yield "a", torch.ones(10, 10, dtype=torch.bfloat16)
    yield "b", torch.zeros(2)


def test_vllm_accepts_the_source_and_can_read_it_again():
    from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerWeightTransferEngine

    source = weight_source(lambda: SHAPES, tensors)
    assert [(m.name, m.dtype, tuple(m.shape)) for m in source.metadata()] == SHAPES
    for _ in range(2):
        checked = NCCLTrainerWeightTransferEngine._checked_iter(source, source.metadata())
        assert len(list(checked)) == 2


def test_the_sender_is_opened_with_client_and_source(monkeypatch):
    from vllm.distributed.weight_transfer import factory

    calls = []

    class Factory:
        @staticmethod
        def trainer_init(init_info, *, client, source):
            calls.append((init_info, client, source))
            return "engine"

    monkeypatch.setattr(factory, "WeightTransferTrainerFactory", Factory)
    spec, source = TransferSpec("ipc", 0, 1000), weight_source(lambda: SHAPES, tensors)
    assert open_sender(spec, "client", source) == "engine"
    assert calls == [(weight_sender.trainer_init_info(spec), "client", source)]
