"""Attention over ranks in a group of one: what it is where nothing is shared out.

Two ranks are in test_sequence_parallel.py.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from transformers import LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from learner import distributed, ulysses
from learner.ulysses import SharedRows, all_to_all, attention, share_rows, to_heads, to_tokens


@pytest.fixture
def group():
    distributed.join_process_group()
    yield dist.group.WORLD
    share_rows(None)


def states():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 2, 6, 4, generator=generator) for _ in range(3)]


def module():
    config = LlamaConfig(hidden_size=8, num_attention_heads=2)
    return SimpleNamespace(config=config, is_causal=True, training=False)


def test_a_rank_alone_keeps_tokens_and_heads(group):
    tokens = torch.arange(2.0 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    assert torch.equal(to_heads(tokens, group), tokens)
    assert torch.equal(to_tokens(tokens, group), tokens)


def test_the_gradient_goes_back_the_same_way(group):
    sent = torch.ones(3, 2, requires_grad=True)
    (all_to_all(sent, [3], [3], group) * torch.arange(6.0).reshape(3, 2)).sum().backward()
    assert torch.equal(sent.grad, torch.arange(6.0).reshape(3, 2))


@pytest.mark.parametrize("window", [None, 2])
def test_sequences_of_a_row_do_not_see_each_other(group, window):
    """Three tokens of each of two sequences in one row: as if each had a row of its own."""
    share_rows(SharedRows(torch.tensor([[0, 1, 2, 0, 1, 2]]), group))
    query, key, value = states()
    packed, _ = attention(module(), query, key, value, None, sliding_window=window)
    for begin in (0, 3):
        parts = [each[:, :, begin : begin + 3] for each in (query, key, value)]
        i, j = torch.arange(3)[:, None], torch.arange(3)
        seen = (j <= i) & (i - j < (window or 3))
        alone, _ = sdpa_attention_forward(module(), *parts, seen[None, None])
        assert torch.allclose(packed[:, begin : begin + 3], alone, atol=1e-6)


def test_without_shared_rows_it_is_sdpa(group):
    query, key, value = states()
    expected, _ = sdpa_attention_forward(module(), query, key, value, None)
    given, _ = attention(module(), query, key, value, None)
    assert torch.equal(given, expected)


def test_a_model_makes_no_mask_of_its_part_of_shared_rows(group):
    shape = {"batch_size": 1, "q_length": 3, "kv_length": 3, "allow_is_causal_skip": False}
    assert ulysses.attention_mask(**shape).shape == (1, 1, 3, 3)
    share_rows(SharedRows(torch.arange(6)[None], group))
    assert ulysses.attention_mask(**shape) is None
