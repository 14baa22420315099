"""Linear layers by oneDNN give what torch's own give; freed memory is used again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from learner import cpu
from learner.cpu import OneDNNLinear, use_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.fixture(autouse=True)
def wide_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")


def both(*, bias=True, inputs=7, outputs=5):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    other = copy.deepcopy(plain)
    use_onednn(other)
    assert type(other[0]) is OneDNNLinear
    return plain, other


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (1, 64, 7)])
def test_values_and_gradients_are_those_of_torch(shape, bias):
    plain, other = both(bias=bias)
    results = []
    for model in (plain, other):
        torch.manual_seed(1)
        inputs = torch.randn(shape, requires_grad=True)
        outputs = model(inputs)
        (outputs * torch.randn(outputs.shape)).sum().backward()
        results.append([outputs, inputs.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        assert a.shape == b.shape
        assert b.is_contiguous()
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7)])
def test_outputs_may_be_changed_in_place(shape):
    """As Gemma 3n does."""
    plain, other = both()
    inputs = torch.ones(shape)
    gradients = []
    for model in (plain, other):
        outputs = model(inputs)
        outputs[..., 0] *= 2
        gradients.append(torch.autograd.grad(outputs.mul_(3).sum(), [*model.parameters()]))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_that_nobody_needs_are_none():
    _, other = both()
    other[0].weight.requires_grad_(False)
    inputs = torch.randn(3, 7)
    other(inputs).sum().backward()
    assert other[0].weight.grad is None
    assert other[0].bias.grad.tolist() == [3.0] * 5
    other[0].bias.requires_grad_(False)
    assert not other(inputs).requires_grad
    assert other(inputs.requires_grad_()).requires_grad


def test_views_with_strides_are_read_right():
    plain, other = both()
    inputs = torch.randn(7, 6, requires_grad=True).t()
    torch.testing.assert_close(plain(inputs), other(inputs))
    expanded = torch.ones(5).expand(6, 5)  # a gradient without memory of its own
    gradients = [
        torch.autograd.grad(m(inputs), [*m.parameters()], expanded) for m in (plain, other)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_activations_may_be_computed_again():
    plain, other = both()
    inputs = torch.randn(3, 7, requires_grad=True)
    expected = torch.autograd.grad(plain(inputs).square().sum(), inputs)
    found = checkpoint(other, inputs, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), inputs), expected)


def test_no_rows_and_other_dtypes_go_torchs_way(monkeypatch):
    _, other = both()
    monkeypatch.setattr(cpu, "_product", None)
    assert other(torch.zeros(0, 7)).shape == (0, 5)
    assert other.double()(torch.ones(1, 7, dtype=torch.float64)).dtype == torch.float64


def test_what_is_no_plain_linear_layer_stays():
    class Own(nn.Linear):
        pass

    model = nn.ModuleList([Own(2, 2), nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2), nn.ReLU()])
    names = list(model.state_dict())
    use_onednn(model)
    assert [type(m) for m in model] == [Own, nn.Linear, OneDNNLinear, nn.ReLU]
    assert list(model.state_dict()) == names


def test_narrower_processors_keep_torchs_own(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    model = nn.ModuleList([nn.Linear(2, 2)])
    use_onednn(model)
    assert type(model[0]) is nn.Linear
