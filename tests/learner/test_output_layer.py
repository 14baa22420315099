"""Chunks of the vocabulary's rows give the scores and gradients of all rows at once."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from learner import output_layer
from learner.batch import microbatches
from learner.model import ActorCritic, ForwardOptions, Scores, ValueHead
from learner.output_layer import token_scores
from learner.trunk import load_trunk
from tests.support.learner import VOCABULARY, demonstrations, save_llama

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": VOCABULARY}
MODELS = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    ),
    "gemma2": lambda: Gemma2ForCausalLM(  # a soft cap behind the output layer
        Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=0.5)
    ),
    "cohere": lambda: CohereForCausalLM(CohereConfig(**SIZES, logit_scale=0.3)),  # a scale
}


@pytest.fixture(scope="module", params=["llama", *MODELS])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        return save_llama(folder, tied=True)
    torch.manual_seed(0)
    MODELS[request.param]().save_pretrained(folder)
    return folder


def scores_and_gradients(folder, options=None):
    """Scores of one microbatch, and the gradients of a loss on all of them."""
    torch.manual_seed(0)
    head = ValueHead(32, seed=1)
    torch.nn.init.normal_(head.outer.weight)
    actor = ActorCritic(load_trunk(folder, torch.float32, "eager"), head, (3, 4))
    (m,) = microbatches(demonstrations(10), 10_000, "padded")
    options = options or ForwardOptions(0.7, entropy=True, score_norms=True)
    positions = m.actions[:3]
    scores = Scores(*actor(m.token_ids, m.position_ids, m.actions, positions, options))
    factors = torch.linspace(-1, 1, len(scores.logprobs))
    loss = (factors * scores.logprobs).sum() + (factors * scores.entropy).sum()
    (loss + scores.values.sum()).backward()
    gradients = {k: p.grad for k, p in actor.named_parameters() if p.grad is not None}
    return scores, gradients, actor


@pytest.mark.parametrize("rows", [1, 7, 32])
def test_scores_and_gradients_are_those_of_all_rows_at_once(folder, rows, monkeypatch):
    expected, gradients, actor = scores_and_gradients(folder)
    assert actor._output_layer.chunks(len(expected.logprobs)) == 1
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", rows * VOCABULARY + VOCABULARY // 2)
    widths = []
    sampled_from = ActorCritic._sampled_from

    def seen(self, logits, temperature):
        widths.append(len(logits))
        return sampled_from(self, logits, temperature)

    monkeypatch.setattr(ActorCritic, "_sampled_from", seen)
    scores, chunked, actor = scores_and_gradients(folder)
    assert max(widths) <= rows
    assert len(scores.logprobs) > 2 * rows
    for name in ("logprobs", "entropy", "values", "score_norms"):
        torch.testing.assert_close(getattr(scores, name), getattr(expected, name))
    assert chunked.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked[name], gradient, rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        whole = ForwardOptions(distribution=True)
        (m,) = microbatches(demonstrations(10), 10_000, "padded")
        out = actor(m.token_ids, m.position_ids, m.actions, m.actions[:1], whole)
    assert out[4].shape == (len(m.actions), VOCABULARY)


def test_a_frozen_trunk_is_scored_without_gradient(folder, monkeypatch):
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 5 * VOCABULARY)
    actor = ActorCritic(load_trunk(folder, torch.float32, "eager"), ValueHead(32))
    (m,) = microbatches(demonstrations(10), 10_000, "padded")
    options = ForwardOptions(freeze_trunk=True)
    scores = Scores(*actor(m.token_ids, m.position_ids, m.actions, m.actions[:3], options))
    assert not scores.logprobs.requires_grad
    assert scores.values.requires_grad


def test_a_model_whose_logits_need_more_than_the_hidden_states_has_no_chunks(folder, monkeypatch):
    expected, gradients, _ = scores_and_gradients(folder)
    monkeypatch.setattr(output_layer, "CHUNK_ELEMENTS", 5 * VOCABULARY)
    logits = output_layer.OutputLayer.logits
    monkeypatch.setattr(
        output_layer.OutputLayer, "logits", lambda self, hidden: logits(self, hidden) + 0.01
    )
    scores, whole, actor = scores_and_gradients(folder)
    assert actor._output_layer.chunks(1000) == 1
    torch.testing.assert_close(scores.logprobs, expected.logprobs)
    for name, gradient in gradients.items():
        torch.testing.assert_close(whole[name], gradient)


@pytest.mark.parametrize("shift", [0.0, 80.0])
def test_target_logprobs_are_those_of_the_softmax(shift):
    logits = (5 * torch.randn(6, 9, generator=torch.Generator().manual_seed(0)) + shift).double()
    logits.requires_grad_()
    targets, factors = torch.tensor([0, 8, 3, 3, 1, 2]), torch.arange(1.0, 7.0).double()
    own = token_scores(logits, targets, entropy=False, score_norms=False).logprobs
    expected = logits.log_softmax(-1)[torch.arange(6), targets]
    torch.testing.assert_close(own, expected)
    (gradient,) = torch.autograd.grad((factors * own).sum(), logits)
    (by_autograd,) = torch.autograd.grad((factors * expected).sum(), logits)
    torch.testing.assert_close(gradient, by_autograd)


@pytest.mark.parametrize("gap", [0.0, 5.0, 12.0, 16.0, 20.0, 30.0])
def test_score_norms_keep_their_digits_however_sure_the_policy_is(gap):
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 7] = gap
    targets = torch.tensor([7] * 60 + [0, 1, 2, 3])
    norms = token_scores(logits, targets, entropy=True, score_norms=True).score_norms
    exact = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_softmax(-1)[torch.arange(64), targets].sum(), exact)
    others = gradient.scatter(-1, targets[:, None], 0.0)  # whose sum is 1 - p of the target
    expected = others.sum(-1).square() + others.square().sum(-1)
    torch.testing.assert_close(norms.double(), expected, rtol=1e-4, atol=0.0)
    assert token_scores(logits, targets, True, False).score_norms.tolist() == [0.0] * 64


@pytest.mark.parametrize("impossible", [-torch.inf, torch.finfo(torch.float32).min, -200.0])
def test_a_token_that_cannot_be_drawn_changes_no_entropy_and_no_gradient(impossible):
    """As the picture tokens of Chameleon, whose logits a temperature below 1 makes -inf."""
    logits = torch.tensor([[impossible, 0.0, 1.0, -3.0]], requires_grad=True)
    others = logits.detach()[:, 1:].requires_grad_()
    gradients = []
    for given, target in ((logits, 1), (others, 0)):
        scores = token_scores(given / 0.7, torch.tensor([target]), entropy=True, score_norms=True)
        gradients.append(torch.autograd.grad(2 * scores.entropy + scores.logprobs, given)[0])
        if given is logits:
            own = scores
    torch.testing.assert_close(own.entropy, scores.entropy)
    torch.testing.assert_close(own.score_norms, scores.score_norms)
    torch.testing.assert_close(gradients[0][:, 1:], gradients[1])
    assert gradients[0][0, 0] == 0
