"""Attention over rows whose tokens are shared out among ranks (DeepSpeed-Ulysses).

Each rank has the queries, keys and values of its part of a row's tokens. All-to-all exchanges give
it those of all tokens for its part of the heads, and the outputs go back the same way (Jacobs et
al., 2023, arXiv 2309.14509). Importing this registers the attention with transformers.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import FunctionCtx
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import (
    create_causal_mask,
    create_sliding_window_causal_mask,
    sdpa_mask,
)

ULYSSES = "ulysses"  # the implementation's name; without shared rows it is sdpa


@dataclass
class SharedRows:
    """The rows that the ranks of a group compute together.

    position_ids: int64 [R, L] of whole rows; sequences of a row are told apart by it.
    group: the ranks, in the order of their parts of a row.
    """

    position_ids: torch.Tensor
    group: dist.ProcessGroup
    _masks: dict[int | None, torch.Tensor | None] = field(default_factory=dict)

    def mask(
        self, config: PretrainedConfig, window: int | None, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """What sdpa's own mask is for the rows; None where all of each row before a token is seen.

        Args:
            config: of the layer's model.
            window: how many tokens back the layer sees; None: all.
            dtype: of its queries.
        """
        if window not in self._masks:
            config = copy.copy(config)
            config._attn_implementation = "sdpa"
            make = create_causal_mask if window is None else create_sliding_window_causal_mask
            if window is not None:
                config.sliding_window = window
            positions = self.position_ids
            shape = torch.empty(*positions.shape, 0, dtype=dtype, device=positions.device)
            mask = make(config, shape, None, None, positions)
            assert not isinstance(mask, BlockMask), "that is of flex attention"
            self._masks[window] = mask
        return self._masks[window]


_rows: SharedRows | None = None  # a model gives its attention what a layer knows, and not these


def share_rows(rows: SharedRows | None) -> None:
    """Have attention compute these rows, until the next call; None: each rank has its own.

    They are also those of a backward pass, in which a checkpointed layer computes attention again.
    """
    global _rows
    _rows = rows


def to_heads(tokens: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """From its tokens' heads [R, H, L / N, D] to a rank's heads of all tokens [R, H / N, L, D]."""
    ranks, (rows, heads, length, size) = group.size(), tokens.shape
    parts = tokens.reshape(rows, ranks, heads // ranks, length, size).movedim(1, 0)
    parts = _exchange(parts, group).movedim(0, 2)  # [R, H / N, N, L / N, D]
    return parts.reshape(rows, heads // ranks, ranks * length, size)


def to_tokens(heads: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """From its heads of all tokens [R, L, H / N, D] to a rank's tokens' heads [R, L / N, H, D]."""
    ranks, (rows, length, own, size) = group.size(), heads.shape
    parts = heads.reshape(rows, ranks, length // ranks, own, size).movedim(1, 0)
    parts = _exchange(parts, group).movedim(0, 2)  # [R, L / N, N, H / N, D]
    return parts.reshape(rows, length // ranks, ranks * own, size)


def _exchange(parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Part i of the first dimension goes to rank i; what comes, in the ranks' order."""
    each = [1] * group.size()
    return all_to_all(parts, each, each, group)


def all_to_all(
    sent: torch.Tensor, sizes: list[int], received_sizes: list[int], group: dist.ProcessGroup
) -> torch.Tensor:
    """What comes from all ranks of a group, in their order; the gradient goes the same way back.

    Args:
        sent: its first dimension in parts of `sizes` goes to the ranks in turn.
        sizes: of each part.
        received_sizes: of what comes from each rank.
        group: its ranks call this together.
    """
    received: torch.Tensor = _AllToAll.apply(sent, sizes, received_sizes, group)
    return received


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        sent: torch.Tensor,
        sizes: list[int],
        received_sizes: list[int],
        group: dist.ProcessGroup,
    ) -> torch.Tensor:
        ctx.back = received_sizes, sizes, group  # type: ignore[attr-defined]
        received = sent.new_empty(sum(received_sizes), *sent.shape[1:])
        dist.all_to_all_single(received, sent.contiguous(), received_sizes, sizes, group=group)
        return received

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return all_to_all(grads[0], *ctx.back), None, None, None  # type: ignore[attr-defined]


def attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Query, key and value [R, H, L, D] of a layer to its output [R, L, H, D], for transformers."""
    rows = _rows
    if rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    query, key, value = (to_heads(states, rows.group) for states in (query, key, value))
    config: Any = module.config
    mask = rows.mask(config, options.get("sliding_window"), query.dtype)
    output, weights = sdpa_attention_forward(module, query, key, value, mask, **options)
    return to_tokens(output, rows.group), weights


def attention_mask(*arguments: Any, **options: Any) -> torch.Tensor | None:
    """That of sdpa; of shared rows a model sees a part, so theirs is made in the layers."""
    return None if _rows is not None else sdpa_mask(*arguments, **options)


AttentionInterface.register(ULYSSES, attention)
AttentionMaskInterface.register(ULYSSES, attention_mask)
