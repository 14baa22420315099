"""What makes a learner on a CPU fast: oneDNN's matrix products.

torch gives float32 products on x86 to MKL, whose kernels use half the width of an AMD processor's
AVX-512 units. oneDNN, which torch ships and uses for bfloat16, needs half the time there.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

Tensor = torch.Tensor


def use_onednn(model: nn.Module) -> None:
    """Have the model's linear layers call oneDNN, where this CPU gains by it; weights stay.

    The rule reads the processor alone, so that a resumed run computes with the same kernels.
    """
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not onednn:
        return
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.float32:
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """A linear layer that calls oneDNN for tensors on the CPU."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Of [..., K], as nn.Linear."""
        if inputs.device.type != "cpu" or inputs.dtype != torch.float32 or not inputs.numel():
            return super().forward(inputs)
        rows = inputs.reshape(-1, inputs.shape[-1])
        # Made a view here, not by oneDNN in the function: that one no model may change in place.
        return cast(Tensor, _Linear.apply(rows, self.weight, self.bias)).view(
            *inputs.shape[:-1], self.out_features
        )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        inputs = inputs.contiguous()
        ctx.save_for_backward(inputs, weight)
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        of_inputs, of_weight, of_bias = ctx.needs_input_grad  # type: ignore[attr-defined]
        rows = gradient.contiguous()
        return (
            _product(rows, weight.t()) if of_inputs else None,
            _product(rows.t(), inputs.t()) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )


def _product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear by oneDNN: inputs [R, K], weight [N, K] of any strides, bias [N]."""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], ""))
