"""The formula of compute against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from report import flops


def test_forward_and_training_agree_with_the_counter():
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    names = {
        name: m.weight.numel()
        for name, m in model.named_modules()
        if isinstance(m, torch.nn.Linear)
    }
    output = names.pop("lm_head")
    size, tokens = flops.Size(sum(names.values()), output, 2, 64), torch.randint(0, 64, (2, 96))
    with FlopCounterMode(display=False) as played, torch.no_grad():
        model(tokens)
    with FlopCounterMode(display=False) as trained:
        model(tokens, labels=tokens).loss.backward()
    assert flops.forward(size, 192, 96) == pytest.approx(played.get_total_flops(), rel=0.1)
    assert flops.training(size, 192, 96) == pytest.approx(trained.get_total_flops(), rel=0.1)

    with FlopCounterMode(display=False) as part, torch.no_grad():
        model(tokens, logits_to_keep=24)
    assert flops.forward(size, 192, 96, 0.25) == pytest.approx(part.get_total_flops(), rel=0.01)


def test_the_paper_counts_reading_again_lambda_times():
    reread = flops.REREAD["cardinal/GeneralPoints-v0"]
    assert flops.paper(10, 3, 3, reread) == 6 * 10 * 6 + 2 * 10 * 6 * 3
