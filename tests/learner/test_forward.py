"""Passes that only keep ranks together give nothing, and no gradient but zero."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from learner import forward, image_inputs
from learner.batch import microbatches
from learner.forward import passes, score_all, zero_loss
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


def test_ranks_that_share_rows_make_a_pass_for_each_of_them(monkeypatch):
    """A rank computes the loss of its own alone, and the last of all passes is the last."""
    packed = microbatches(demonstrations(4), 60, "packed")
    monkeypatch.setattr(image_inputs.distributed, "all_max", lambda own: (own[0] + 1, own[1]))

    class Group:
        def passes(self, microbatch, device):
            return [SimpleNamespace(owned=rank == 1, run=(rank, microbatch)) for rank in range(3)]

    made = list(passes(packed, None, torch.device("cpu"), Group()))
    assert len(made) == 3 * (len(packed) + 1)
    assert [each.run[0] for each in made] == [0, 1, 2] * (len(packed) + 1)
    assert [each.microbatch for each in made[1:-3:3]] == packed
    assert [each.run[1] for each in made[:-3:3]] == packed
    assert [each.microbatch for each in made[::3] + made[2::3]] == [None] * 2 * (len(packed) + 1)
    assert made[-2].microbatch is None
    assert [each.last for each in made] == [False] * (len(made) - 1) + [True]
