"""What is said of a process for which there was not memory enough."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from cluster.failures import first_line, out_of_memory
from cluster.run import memory_failure
from cluster.run.memory_failure import advice, peak, with_peak
from configs.load import load


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore words"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_ranks_peak_is_in_its_error(error):
    said = str(with_peak(error))
    assert re.search(r"^out of memory: .*; peak \d+\.\d GiB$", said)
    assert "\n" not in said
    assert out_of_memory(first_line(with_peak(error)))


def test_other_errors_stay_as_they_are():
    error = RuntimeError("shapes differ")
    assert with_peak(error) is error


def test_a_gpus_peak_is_named_beside_the_hosts(monkeypatch):
    cuda = SimpleNamespace(
        is_available=lambda: True,
        max_memory_allocated=lambda: 71 * 2**30,
        current_device=lambda: 3,
        get_device_properties=lambda device: SimpleNamespace(total_memory=(76 + device) * 2**30),
    )
    monkeypatch.setattr(memory_failure.torch, "cuda", cuda)
    assert re.search(r"^71\.0 of the GPU's 79\.0 GiB, \d+\.\d GiB of the host's$", peak())


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("the learner group failed: rank 1: …", ("microbatch_tokens=4096", "zero_stage=0")),
        ("rollout worker 1 was lost while …", ("rollout.in_flight=32", "rollout.gpu_memory=0.85")),
        ("the kernel ended a process", ("cluster.object_store_gib",)),
    ],
)
def test_the_keys_are_those_of_the_part(failure, words):
    said = advice(failure, load("gp_l_debug"))
    assert all(word in said for word in words)
