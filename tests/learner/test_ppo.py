"""A PPO update against one written by hand, and what its settings do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.load import contradictions
from configs.schema import OptimizerConfig
from learner import ppo
from learner.engine import ReferencePolicy, TrainingEngine
from learner.model import load_value_head
from learner.ppo import ppo_steps, ppo_update
from learner.training_trajectory import prepare, score
from tests.support.learner import (
    config,
    full_state,
    relative,
    save_llama,
    sgd,
    sgd_config,
    trajectories,
)
from tests.support.trajectories import mark_failed

LR = 1e3  # so large that the step shows the gradient to full float32 precision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_llama(tmp_path_factory.mktemp("ppo") / "model", tied=False)
    engine = TrainingEngine(folder, config(), config().ppo.optimizer, 1, True)
    torch.nn.init.normal_(engine.model.value_head.outer.weight, std=0.5)
    engine.export(folder)
    engine.close()
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    other = save_llama(tmp_path_factory.mktemp("ppo") / "other", tied=False, seed=1)
    return other, ReferencePolicy(other, config())


def gae(rewards, values, last, gamma, lam):
    """Backward recursion of the textbook, one number at a time."""
    advantages, following, running = [], last, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        running = reward + gamma * following - value + gamma * lam * running
        advantages.insert(0, running)
        following = value
    return advantages


def turns_by_hand(folder, other, played, cfg):
    """Policy and critic, and what they say of each trajectory, every segment alone, in float64.

    Of each trajectory: (turn, log-probability, reference's, distribution, behaviour) of each
    action token; values and rewards of its turns; value of the state after the last one.
    """
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    old = AutoModelForCausalLM.from_pretrained(other).double().eval()
    head = load_value_head(folder, 32, 0)
    w = {k: v.double().detach().requires_grad_() for k, v in head.named_parameters()}

    def value(h):
        inner = torch.nn.functional.gelu(h @ w["inner.weight"].T + w["inner.bias"])
        return (inner @ w["outer.weight"].T + w["outer.bias"])[..., 0]

    def logprobs(net, ids):
        out = net(ids[None], output_hidden_states=True)
        scaled = (out.logits[0] / cfg.rollout.temperature).log_softmax(-1)
        return scaled, out.hidden_states[-1][0]

    plays, share = [], cfg.ppo.value_trunk_grad
    for t in played:
        tokens, values, rewards = [], [], []
        for segment in t.segments:
            ids = torch.tensor(segment.token_ids).long()
            dist, hidden = logprobs(model, ids)
            with torch.no_grad():
                ref, _ = logprobs(old, ids)
            for turn in segment.turns:
                h = hidden[turn.begin - 1]
                values.append(value(share * h + (1 - share) * h.detach()))
                rewards.append(turn.reward)
                for i in range(turn.begin, turn.end):
                    k = (i - 1, ids[i])
                    behavior = float(segment.behavior_logprobs[i])
                    tokens.append((len(values) - 1, dist[k], ref[k], dist[i - 1], behavior))
        last = float(value(hidden[-1].detach()).detach()) if t.bootstrap else 0.0
        plays.append((tokens, values, rewards, last))
    return model, w, plays


def norms_by_hand(plays):
    """Squared norm of each turn's score function, from the plays of `turns_by_hand`."""
    return [
        sum(
            float(1 - 2 * logp.detach().exp() + (2 * dist.detach()).exp().sum())
            for k, logp, _, dist, _ in tokens
            if k == turn
        )
        for tokens, values, _, _ in plays
        for turn in range(len(values))
    ]


def by_hand(folder, other, played, cfg):
    """Loss and gradient of the first step over all trajectories, in plain transformers, float64.

    One value a turn; no packing, no microbatches.
    """
    p = cfg.ppo
    model, w, plays = turns_by_hand(folder, other, played, cfg)
    for tokens, _, rewards, _ in plays:
        for turn, logp, ref, _, _ in tokens:
            rewards[turn] -= p.kl_coef * float(logp.detach() - ref) * (p.kl_in == "reward")
    numbers = [[float(v.detach()) for v in values] for _, values, _, _ in plays]
    advantages = [
        gae(rewards, old_values, last, p.gamma, p.lam)
        for (_, _, rewards, last), old_values in zip(plays, numbers, strict=True)
    ]
    flat = np.array([a for of_play in advantages for a in of_play])
    center = np.average(flat, weights=norms_by_hand(plays) if p.baseline == "optimal" else None)
    policy, entropy, kl, of_loss, squares, n, m = 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0
    for (tokens, values, _, _), own, old_values in zip(plays, advantages, numbers, strict=True):
        for turn, logp, ref, dist, behavior in tokens:
            a = (own[turn] - center) / flat.std()
            ratio = (logp - logp.detach()).exp()
            correction = min(float((logp.detach() - behavior).exp()), p.correction_cap)
            length = {"turn": sum(k == turn for k, *_ in tokens)}
            length["constant"] = cfg.rollout.answer_tokens
            share = 1 / length.get(p.aggregation, 1)
            policy = policy - correction * ratio * a * share
            spread = -(dist.exp() * dist).sum()
            k2, k3 = (ref - logp) ** 2 / 2, (ref - logp).exp() - 1 - (ref - logp)
            apart = k2 if p.kl_estimator == "k2" else k3
            entropy, kl = entropy + spread, kl + apart
            in_loss = p.kl_coef * apart * (p.kl_in == "loss") - p.entropy_coef * spread
            of_loss, n = of_loss + in_loss * share, n + 1
        for v, a, old_value in zip(values, own, old_values, strict=True):
            squares, m = squares + (v - (a + old_value)) ** 2, m + 1
    count = n if p.aggregation == "token" else m
    policy = policy / count
    loss = policy + p.value_coef * squares / m + of_loss / count
    loss.backward()
    gradient = {f"trunk.{k}": v.grad for k, v in model.named_parameters()}
    gradient |= {f"value_head.{k}": v.grad for k, v in w.items()}
    terms = {"policy_loss": policy, "value_loss": squares / m, "kl_ref": kl / n, "loss": loss}
    terms |= {"entropy": entropy / n}
    return {k: float(v.detach()) for k, v in terms.items()}, gradient


@pytest.mark.parametrize(
    ("packing", "settings"),
    [
        ("padded", {}),
        ("packed", {"baseline": "optimal", "kl_estimator": "k2"}),
        ("packed", {"kl_in": "reward", "aggregation": "turn"}),
        ("packed", {"aggregation": "constant"}),
        ("padded", {"aggregation": "turn", "kl_estimator": "k2"}),
    ],
)
def test_update_is_the_one_written_by_hand(folder, reference, packing, settings):
    other, frozen = reference
    coefficients = {"kl_coef": 0.05, "entropy_coef": 0.02, "optimizer": sgd_config(LR)}
    coefficients |= settings
    cfg = config(temperature=0.8, budget=256, epochs=1, minibatch=10, episodes=10, **coefficients)
    played = trajectories(10)
    terms, gradient = by_hand(folder, other, played, cfg)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 1, True, make_optimizer=sgd)
    engine.packing = packing
    before = full_state(engine)
    metrics = ppo_update(engine, played, cfg, 0, frozen)
    after = full_state(engine)
    engine.close()
    for name, value in terms.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    step = {k: (before[k] - after[k]) / LR for k in before}
    assert step.keys() == gradient.keys()
    both = [np.concatenate([np.ravel(g[k]) for k in gradient]) for g in (step, gradient)]
    assert relative(*both) < 1e-5
    for k in step:
        assert relative(step[k], gradient[k].numpy()) < 1e-4, k


def start(folder, cfg, value=True):
    return TrainingEngine(folder, cfg, cfg.ppo.optimizer, ppo_steps(cfg.ppo), value)


def update(folder, cfg, played, number=0, value=True, **kwargs):
    engine = start(folder, cfg, value)
    before = full_state(engine)
    metrics = ppo_update(engine, played, cfg, number, **kwargs)
    after, steps = full_state(engine), engine.counters["steps"]
    engine.close()
    moved = {k for k in before if not np.array_equal(before[k], after[k])}
    return metrics, moved, steps


def test_critic_warmup_trains_the_value_head_alone(folder):
    for decay in (0.0, 0.1):
        optimizer = OptimizerConfig(lr=1e-3, weight_decay=decay)
        cfg = config(critic_warmup=1, optimizer=optimizer)
        metrics, moved, _ = update(folder, cfg, trajectories(12))
        layers = ("inner.weight", "inner.bias", "outer.weight", "outer.bias")
        assert moved == {f"value_head.{layer}" for layer in layers}
        assert metrics["kl"] == pytest.approx(0, abs=1e-6)
        assert any(k.startswith("trunk.") for k in update(folder, cfg, trajectories(12), 1)[1])


@pytest.mark.parametrize("baseline", ["mean", "optimal"])
@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_pp"])
def test_other_estimators_need_no_critic(folder, estimator, baseline):
    cfg = config(estimator=estimator, critic_warmup=2, baseline=baseline)
    metrics, moved, _ = update(folder, cfg, trajectories(12), value=False)
    assert metrics["value_loss"] == 0
    assert metrics["policy_loss"] != 0
    assert moved
    assert all(k.startswith("trunk.") for k in moved)


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("grpo", {"baseline": "optimal"}),
        ("rloo", {"baseline": "optimal"}),
        ("reinforce_pp", {"baseline": "optimal"}),
        ("grpo", {"group_deviation": "none"}),
        ("grpo", {"kl_in": "reward", "kl_coef": 1.0}),
        ("rloo", {"kl_in": "reward", "kl_coef": 1.0}),
    ],
)
def test_what_returns_are_compared_with_changes_what_is_learnt(
    folder, reference, estimator, settings
):
    def norm(**keys):
        cfg = config(estimator=estimator, **keys)
        engine = start(folder, cfg, value=False)
        metrics = ppo_update(engine, trajectories(12), cfg, 0, reference[1])
        engine.close()
        return metrics["policy_loss"], metrics["grad_norm"]

    assert norm(**settings) != pytest.approx(norm(), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"value_level": "token"},
        {"value_level": "token", "advantage_level": "token"},
        {"ratio_level": "turn"},
        {"value_clip": 0.2},
        {"normalize_advantages": False},
        {"baseline": "optimal"},
        {"baseline": "optimal", "value_level": "token", "advantage_level": "token"},
    ],
)
def test_levels_run_and_learn_differently(folder, settings):
    plain, _, _ = update(folder, config(), trajectories(12))
    metrics, moved, _ = update(folder, config(**settings), trajectories(12))
    unknown = {name for name, value in metrics.items() if not np.isfinite(value)}
    assert unknown == {n for n in metrics if "worst" in n or "most_engine" in n}, "no engine played"
    assert len(moved) > 10
    assert metrics["loss"] != pytest.approx(plain["loss"], rel=1e-6)


def test_target_kl_ends_the_update_but_not_the_schedule(folder):
    cfg = config(optimizer=OptimizerConfig(lr=5e-2, warmup=0.0))
    assert update(folder, cfg, trajectories(12))[0]["steps"] == 6
    ended = config(**{**vars(cfg.ppo), "target_kl": 0.01})
    metrics, _, steps = update(folder, ended, trajectories(12))
    assert metrics["steps"] < 6
    assert steps == 6


def test_order_of_arrival_does_not_matter(folder):
    played = trajectories(12)
    a, _, _ = update(folder, config(), played)
    b, _, _ = update(folder, config(), played[::-1])
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_failed_trajectories_are_counted_and_not_trained_on(folder):
    played = trajectories(12)
    broken = [*played[:10], mark_failed(played[10], "x"), mark_failed(played[11], "x")]
    metrics, _, _ = update(folder, config(), broken)
    alone, _, _ = update(folder, config(), played[:10])
    assert metrics["failed"] == 2
    assert metrics["episodes"] == 10
    assert {**metrics, "failed": 0} == alone
    with pytest.raises(ValueError, match="update 0 has no trajectory"):
        update(folder, config(), broken[10:])


def test_a_trajectory_that_two_ranks_were_given_is_an_error(monkeypatch):
    monkeypatch.setattr(ppo.distributed, "all_gather", lambda own: [own, own[:1]])
    with pytest.raises(AssertionError, match="trajectory id train/000 is there more than once"):
        ppo._counts(prepare(trajectories(2), "turn"))


def test_outcomes_and_staleness(folder):
    played = trajectories(12)
    metrics, _, _ = update(folder, config(), played, number=3)
    assert metrics["reward"] == pytest.approx(np.mean([t.total_reward for t in played]))
    assert metrics["success"] == 0.5
    assert metrics["staleness_max"] == 3
    assert metrics["tokens"] == sum(t.tokens for t in played)
    assert metrics["segments"] == sum(len(t.segments) for t in played)
    assert metrics["action_tokens"] == sum(t.action_tokens for t in played)
    assert metrics["turns"] == sum(len(t.turns) for t in played)
    assert metrics["parity_tokens"] == 0


def with_true_behavior(engine, played, shift):
    """The trajectories, as if the engine had sampled them, each log-probability off by shift."""
    prepared = prepare(played, "turn")
    score(engine, prepared, 1.0)
    shifted = []
    for t in prepared:
        start, segments = 0, []
        for s in t.trajectory.segments:
            end = start + int(s.action_mask.sum())
            behavior = np.zeros(len(s.token_ids), np.float32)
            behavior[s.action_mask] = t.proximal_logprobs[start:end] + shift
            segments.append(replace(s, behavior_logprobs=behavior))
            start = end
        shifted.append(replace(t.trajectory, segments=tuple(segments)))
    return shifted


def test_parity(folder):
    cfg = config()
    engine = start(folder, cfg)
    played = with_true_behavior(engine, trajectories(8), 0.0)
    shifted = with_true_behavior(engine, trajectories(8), 0.01)
    engine.close()
    metrics, _, _ = update(folder, cfg, played)
    assert metrics["parity_tokens"] == sum(t.action_tokens for t in played)
    assert metrics["parity_mean_abs"] < 1e-6
    assert metrics["parity_kl"] < 1e-11
    metrics, _, _ = update(folder, cfg, shifted)
    assert metrics["parity_mean_abs"] == pytest.approx(0.01, rel=1e-3)
    assert metrics["parity_kl"] == pytest.approx(np.exp(-0.01) - 1 + 0.01, rel=1e-2)
    metrics, _, _ = update(folder, cfg, shifted, number=4, version=0)
    assert metrics["parity_tokens"] > 0


def test_thought_coef_weighs_tokens():
    """The decoder writes token 1 as a key, so that what precedes the last 1 is reasoning."""
    cfg = config(thought_coef=0.25)
    t = prepare(trajectories(6), "turn")[5]
    tokenizer = SimpleNamespace(decode=lambda ids: "".join('"k":' if i == 1 else "x" for i in ids))
    ppo._set_token_weights([t], SimpleNamespace(tokenizer=tokenizer), cfg.ppo)
    expected = []
    for s in t.trajectory.segments:
        for turn in s.turns:
            ids = s.token_ids[turn.begin : turn.end].tolist()
            last = max((i for i, token in enumerate(ids) if token == 1), default=0)
            expected += [0.25] * last + [1.0] * (len(ids) - last)
    assert t.weights.tolist() == expected


def test_missing_policies_are_refused(folder):
    played = trajectories(4)
    with pytest.raises(ValueError, match="value=True"):
        update(folder, config(), played, value=False)
    with pytest.raises(ValueError, match=r"ppo\.kl_coef is 0\.1"):
        update(folder, config(kl_coef=0.1), played)
    with pytest.raises(ValueError, match=r"rollout\.temperature is 0"):
        update(folder, config(temperature=0.0), played)


def test_what_has_no_effect_is_refused_and_trips_the_invariant(folder):
    cfg = config(advantage_level="token")
    assert "ppo.advantage_level=token needs ppo.value_level=token" in contradictions(cfg)
    with pytest.raises(AssertionError):
        update(folder, cfg, trajectories(4))
    cfg = config(baseline="optimal", normalize_advantages=False)
    assert any("ppo.baseline=optimal" in sentence for sentence in contradictions(cfg))
    allowed = contradictions(config(baseline="optimal"))
    assert not any("baseline" in sentence for sentence in allowed)
    refused = {
        "dual_clip=0.5": {"dual_clip": 0.5},
        "dual_clip=3": {"dual_clip": 3, "surrogate": "cispo"},
        "group_deviation": {"group_deviation": "none"},
        "aggregation": {"aggregation": "turn", "ratio_level": "turn"},
        "kl_estimator": {"kl_estimator": "k2", "kl_in": "reward", "kl_coef": 0.1},
        "kl_in": {"kl_in": "reward"},
        "clip_high": {"surrogate": "sapo", "clip_high": 0.3},
    }
    for start, settings in refused.items():
        (sentence,) = contradictions(config(**settings))
        assert sentence.startswith(f"ppo.{start}"), sentence
