"""The model's scores against plain transformers, each sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from learner import model
from learner.batch import Sequence, microbatches
from learner.model import ActorCritic, ForwardOptions, Scores, ValueHead
from learner.training_trajectory import split_scores
from learner.trunk import load_trunk
from tests.support.learner import VOCABULARY, demonstrations, save_llama


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        return save_llama(folder, tied=True)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def actor_critic(folder, forbidden=()):
    head = ValueHead(32, seed=1)
    torch.nn.init.normal_(head.outer.weight)
    return ActorCritic(load_trunk(folder, torch.float32, "sdpa"), head, forbidden)


def run(actor, sequences, packing, options):
    packed = microbatches(sequences, 128, packing)
    with torch.no_grad():
        scores = [
            Scores(*actor(m.token_ids, m.position_ids, m.actions, m.value_positions, options))
            for m in packed
        ]
    return packed, scores


def with_values(sequences):
    return [
        Sequence(s.token_ids, s.action_mask, np.flatnonzero(s.action_mask) - 1) for s in sequences
    ]


@pytest.mark.parametrize("packing", ["padded", "packed", "flat", "auto"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_are_those_of_each_sequence_alone(folder, packing, temperature):
    sequences = with_values(demonstrations(10))
    forbidden = (3, 4)
    actor = actor_critic(folder, forbidden)
    packed, scores = run(actor, sequences, packing, ForwardOptions(temperature))
    logprobs, values = split_scores(packed, scores)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    for i, s in enumerate(sequences):
        with torch.no_grad():
            out = plain(torch.tensor(s.token_ids).long()[None], output_hidden_states=True)
            states = out.hidden_states[-1][0, s.value_positions]
            expected_values = actor.value_head(states)
        logits = out.logits[0].double()
        logits[:, list(forbidden)] -= 100
        expected = (logits / temperature).log_softmax(-1)
        where = np.flatnonzero(s.action_mask)
        assert np.allclose(logprobs[i], expected[where - 1, s.token_ids[where]], atol=2e-5)
        assert np.allclose(values[i], expected_values, atol=1e-5)


def test_packing_isolates(folder):
    """Changing one sequence of a row leaves the others' scores as they were."""
    a, b, c = with_values(demonstrations(4))[:3]
    actor = actor_critic(folder)
    changed = Sequence((b.token_ids + 1) % VOCABULARY, b.action_mask, b.value_positions)
    before = split_scores(*run(actor, [a, b, c], "flat", ForwardOptions()))
    after = split_scores(*run(actor, [a, changed, c], "flat", ForwardOptions()))
    for kind in (0, 1):
        for i in (0, 2):
            assert np.allclose(before[kind][i], after[kind][i], atol=1e-6)
        assert not np.allclose(before[kind][1], after[kind][1], atol=1e-3)


def test_entropy_and_distribution(folder):
    options = ForwardOptions(distribution=True, entropy=True)
    packed, (score,) = run(actor_critic(folder), demonstrations(2), "auto", options)
    p = score.distribution.exp()
    assert torch.allclose(p.sum(-1), torch.ones(len(p)))
    assert torch.allclose(score.entropy, torch.distributions.Categorical(p).entropy(), atol=1e-5)
    targets = packed[0].token_ids.flatten()[packed[0].actions]
    assert torch.allclose(score.logprobs, score.distribution[torch.arange(len(p)), targets])


def test_score_norms_are_those_of_the_gradient_by_the_logits(folder):
    forbidden, options = (3, 4), ForwardOptions(distribution=True, score_norms=True)
    packed, (score,) = run(actor_critic(folder, forbidden), demonstrations(2), "auto", options)
    targets = packed[0].token_ids.flatten()[packed[0].actions]
    for n, target in enumerate(targets):
        logits = score.distribution[n].clone().requires_grad_()
        logits.log_softmax(-1)[target].backward()
        assert score.score_norms[n] == pytest.approx(float(logits.grad.square().sum()), abs=1e-6)
    _, (score,) = run(actor_critic(folder, forbidden), demonstrations(2), "auto", ForwardOptions())
    assert not score.score_norms.any()
    assert not score.score_norms.requires_grad


def trunk_gradient(actor, m, options):
    actor.zero_grad()
    scores = Scores(*actor(m.token_ids, m.position_ids, m.actions, m.value_positions, options))
    scores.values.square().sum().backward()
    grads = [p.grad for p in actor.trunk.parameters() if p.grad is not None]
    return torch.cat([g.flatten() for g in grads]) if grads else None


def test_value_trunk_grad_scales_the_trunks_gradient_alone(folder):
    actor = actor_critic(folder)
    (m,) = microbatches(with_values(demonstrations(3)), 10_000, "padded")
    full = trunk_gradient(actor, m, ForwardOptions())
    head = actor.value_head.inner.weight.grad.clone()
    tenth = trunk_gradient(actor, m, ForwardOptions(value_trunk_grad=0.1))
    assert torch.allclose(tenth, 0.1 * full, rtol=1e-4, atol=1e-6 * float(full.abs().max()))
    assert torch.allclose(actor.value_head.inner.weight.grad, head, atol=1e-3)
    assert trunk_gradient(actor, m, ForwardOptions(value_trunk_grad=0.0)) is None
    assert trunk_gradient(actor, m, ForwardOptions(freeze_trunk=True)) is None
    assert torch.allclose(actor.value_head.inner.weight.grad, head, atol=1e-3)


def test_value_head_starts_at_zero_is_the_same_everywhere_and_loads(tmp_path):
    a, b = ValueHead(16, seed=3), ValueHead(16, seed=3)
    assert torch.equal(a.inner.weight, b.inner.weight)
    assert (a(torch.randn(5, 16)) == 0).all()
    assert a.to(torch.bfloat16)(torch.randn(5, 16).bfloat16()).dtype == torch.float32
    torch.nn.init.normal_(b.outer.weight)
    save_file(b.state_dict(), tmp_path / model.VALUE_HEAD_FILE)
    loaded = model.load_value_head(tmp_path, 16, seed=0)
    assert torch.equal(loaded.outer.weight, b.outer.weight)


def test_kinds(tmp_path):
    trunk = load_trunk(save_llama(tmp_path, tied=False), torch.float32, "sdpa")
    kinds = {name: model.weight_kind(name, trunk) for name, _ in trunk.named_parameters()}
    assert set(kinds.values()) == set(model.WEIGHT_KINDS) - {"vision", "projector"}
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == "attention"
    assert kinds["model.layers.0.post_attention_layernorm.weight"] == "norm"
    assert kinds["lm_head.weight"] == "head"


def test_bad_input():
    with pytest.raises(ValueError, match=r"rollout\.temperature is 0"):
        ForwardOptions(temperature=0.0)
