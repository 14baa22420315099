"""The formula of compute against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from learner import flops


def test_forward_and_training_agree_with_the_counter():
    config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=256,
                         num_hidden_layers=2, num_attention_heads=2)  # fmt: skip
    model = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    matrices = [m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)]
    size, tokens = flops.Size(sum(matrices), layers=2, width=64), torch.randint(0, 64, (2, 96))
    with FlopCounterMode(display=False) as played, torch.no_grad():
        model(tokens)
    with FlopCounterMode(display=False) as trained:
        model(tokens, labels=tokens).loss.backward()
    assert flops.forward(size, 192, 96) == pytest.approx(played.get_total_flops(), rel=0.1)
    assert flops.training(size, 192, 96) == pytest.approx(trained.get_total_flops(), rel=0.1)


def test_the_paper_counts_reading_again_lambda_times():
    assert flops.paper(10, 1, 2, 3, flops.REREAD["gp"]) == 6 * 10 * 6 + 2 * 10 * 6 * 3
