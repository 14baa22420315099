"""Passes that only keep ranks together give nothing, and no gradient but zero."""

from __future__ import annotations

import torch

from learner import forward, image_inputs
from learner.batch import microbatches
from learner.forward import score_all, zero_loss
from learner.model import ForwardOptions, Scores
from tests.support.learner import demonstrations


def test_the_zero_loss_is_a_function_of_every_output_that_has_a_gradient():
    outputs = [torch.ones(3, requires_grad=True) for _ in range(3)]
    scores = Scores(*outputs, torch.ones(3))
    loss = zero_loss(scores)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(torch.equal(output.grad, torch.zeros(3)) for output in outputs)


def test_padding_passes_are_run_and_left_out(monkeypatch):
    packed = microbatches(demonstrations(4), 60, "packed")
    monkeypatch.setattr(image_inputs.distributed, "all_max", lambda own: (own[0] + 2, own[1]))
    asked = []

    def policy(token_ids, position_ids, actions, value_positions, options, images):
        asked.append((len(actions), options, torch.is_grad_enabled()))
        return (actions.float(), actions.float(), value_positions.float(), actions.float())

    scores = score_all(policy, None, packed, None, device=torch.device("cpu"))
    sizes = [len(m.actions) for m in packed]
    assert asked == [(n, ForwardOptions(), False) for n in [*sizes, 1, 1]]
    assert [len(s.logprobs) for s in scores] == sizes
    assert forward.score_all(policy, None, [], None, device=torch.device("cpu")) == []
