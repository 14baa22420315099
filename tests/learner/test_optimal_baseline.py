"""No other constant gives the policy's gradient less variance than the optimal baseline."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from learner import ppo
from learner.engine import TrainingEngine
from learner.model import Scores
from learner.training_trajectory import prepare
from tests.support.learner import config, save_llama, trajectories

GRPO = {"estimator": "grpo", "group_deviation": "none"}
TOKENS = {"value_level": "token", "advantage_level": "token"}


def played(cfg, weighted):
    """Answers of 1 to 8 tokens, of one group, with norms that fall with their answer's length."""
    rng = np.random.default_rng(1)
    prepared = prepare(trajectories(40), cfg.ppo.value_level)
    for t in prepared:
        t.trajectory = t.trajectory.__class__(**vars(t.trajectory) | {"group_id": 0})
        t.values = rng.normal(size=t.states + t.trajectory.bootstrap).astype(np.float32)
        t.values = t.values[: t.states]
        lengths = np.repeat(t.turn_lengths, t.turn_lengths)
        t.score_norms = (rng.random(t.action_tokens) / lengths).astype(np.float32)
        t.rewards = t.rewards + 0.5 * t.turn_lengths  # longer ones have more
        t.behavior_logprobs = t.proximal_logprobs = np.zeros(t.action_tokens, np.float32)
        if weighted:
            t.weights = rng.choice([0.1, 1.0], t.action_tokens).astype(np.float32)
    return prepared


def squared_gradient(cfg, prepared, shift):
    """E|g|² of the loss with advantages + shift: tokens' gradients count as orthogonal."""
    logprobs = torch.zeros(sum(t.action_tokens for t in prepared), requires_grad=True)
    lengths = np.concatenate([t.turn_lengths for t in prepared])
    tokens, values = (
        {name: torch.from_numpy(column) for name, column in columns.items()}
        for columns in ppo.training_columns(prepared)
    )
    tokens["advantages"] = tokens["advantages"] + shift
    turns = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
    microbatch = SimpleNamespace(token_columns=tokens, value_columns=values, turns=turns)
    loss_fn = ppo.ppo_loss(cfg.ppo, ppo._sum(ppo._counts(prepared).values()), False, 32)
    loss, _ = loss_fn(Scores(logprobs, logprobs, values["targets"], logprobs), microbatch)
    loss.backward()
    norms = np.concatenate([t.score_norms for t in prepared])
    return float((logprobs.grad.double().numpy() ** 2 * norms).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [GRPO, {}, TOKENS], ids=["trajectory", "turn", "token"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"aggregation": "turn"},
        {"aggregation": "constant"},
        {"ratio_level": "turn"},
        {"ratio_level": "turn_mean"},
    ],
    ids=str,
)
def test_the_optimal_baseline_has_the_least_variance_in_every_loss(settings, levels, weighted):
    cfg = config(baseline="optimal", kl_in="reward", **settings, **levels)
    prepared = played(cfg, weighted)
    ppo._set_advantages(prepared, cfg.ppo)
    least = squared_gradient(cfg, prepared, 0.0)
    assert least < squared_gradient(cfg, prepared, 0.01)
    assert least < squared_gradient(cfg, prepared, -0.01)
    cfg = config(baseline="mean", kl_in="reward", **settings, **levels)
    ppo._set_advantages(prepared, cfg.ppo)
    assert least < squared_gradient(cfg, prepared, 0.0)


def test_tokens_have_their_weights_before_the_baseline_is_taken(tmp_path, monkeypatch):
    cfg, seen = config(estimator="rloo", baseline="optimal", thought_coef=0.25), []
    engine = TrainingEngine(save_llama(tmp_path), cfg, cfg.ppo.optimizer, 6, False)
    engine.tokenizer = SimpleNamespace(decode=lambda ids: "x" + '"k":' * (len(ids) > 1))
    set_advantages = ppo._set_advantages

    def kept(prepared, own):
        seen.extend(np.concatenate([t.weights for t in prepared]).tolist())
        set_advantages(prepared, own)

    monkeypatch.setattr(ppo, "_set_advantages", kept)
    ppo.ppo_update(engine, trajectories(4), cfg, 0)
    engine.close()
    assert set(seen) == {0.25, 1.0}
