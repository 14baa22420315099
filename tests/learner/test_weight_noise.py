"""Noise on weights: undone exactly, the same however a parameter is shared, of a known size."""

from __future__ import annotations

import pytest
import torch

from learner import weight_noise
from learner.weight_noise import flip

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_undone_exactly(dtype):
    weights = torch.randn(5000).to(dtype)
    before = weights.clone()
    flip(weights, 0, "a", 1)
    assert not torch.equal(weights, before)
    flip(weights, 0, "a", 1)
    assert torch.equal(weights, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_about_half_of_them_change_by_an_eighth_to_a_quarter(dtype):
    weights = torch.randn(20_000).to(dtype)
    weights[weights.abs() < 1e-3] = 1.0  # the smallest of float16 have fewer bits
    before = weights.double()
    flip(weights, 0, "a", 1)
    change = ((weights.double() - before) / before).abs()
    changed = change[change > 0]
    assert 0.47 < len(changed) / len(change) < 0.53
    assert 0.12 < changed.min() < changed.max() <= 0.25
    assert abs(float((weights.double() - before).mean())) < 0.01


@pytest.mark.parametrize("cuts", [[1, 2, 255, 256, 257, 511, 900], [300], [512], [999]])
def test_any_shares_of_a_parameter_make_the_same(cuts, monkeypatch):
    full = torch.randn(1000)
    shared = full.clone()
    flip(full, 0, "a", 1)
    monkeypatch.setattr(weight_noise, "PIECE", 256)  # none of which is at once
    for begin, end in zip([0, *cuts], [*cuts, 1000], strict=True):
        flip(shared[begin:end], begin, "a", 1)
    assert torch.equal(full, shared)


def test_each_parameter_and_seed_has_its_own():
    noises = []
    for name, seed in (("a", 1), ("b", 1), ("a", 2), ("a", -1), ("a", 2**70)):
        weights = torch.ones(1000)
        flip(weights, 0, name, seed)
        noises.append((weights != 1).float())
    for i, one in enumerate(noises):
        for other in noises[:i]:
            assert 0.4 < float((one - other).abs().mean()) < 0.6
