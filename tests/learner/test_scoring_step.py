"""An update of one step learns the same without a scoring pass, and says the same of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner import packed_update, ppo
from learner.batch import Sequence, microbatches
from learner.engine import TrainingEngine
from learner.model import Scores
from learner.scoring_step import ScoringStep, leave_unscored, scored_by_its_step, scoring_passes
from learner.training_trajectory import prepare
from tests.support.learner import (
    config,
    full_state,
    relative,
    save_llama,
    sgd,
    sgd_config,
    trajectories,
)

ONE_STEP = {"epochs": 1, "minibatch": 12, "estimator": "grpo", "optimizer": sgd_config(1e2)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("one") / "model", tied=False)


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({}, True),
        ({"max_staleness": 3}, True),
        ({"estimator": "rloo"}, True),
        ({"estimator": "reinforce_pp"}, True),
        ({"estimator": "gae"}, False),
        ({"epochs": 2}, False),
        ({"minibatch": 11}, False),
        ({"baseline": "optimal"}, False),
        ({"kl_coef": 0.1}, False),
    ],
)
def test_the_pass_is_left_out_where_nothing_needs_it_before_the_step(settings, left_out):
    ppo = config(**ONE_STEP | settings).ppo
    assert scored_by_its_step(ppo) == left_out
    assert scoring_passes(ppo) == (0 if left_out else 2 if "kl_coef" in settings else 1)


def test_before_the_step_only_what_was_sampled_is_known():
    prepared = prepare(trajectories(3), "turn")
    leave_unscored(prepared)
    for t in prepared:
        assert np.array_equal(t.proximal_logprobs, t.behavior_logprobs)
        assert t.score_norms.tolist() == [0.0] * t.action_tokens
        assert t.values.tolist() == [0.0] * sum(len(s.value_positions) for s in t.sequences)


@pytest.mark.parametrize("coefficient", [0.0, 0.1])
def test_the_entropy_has_a_gradient_only_where_it_is_learned(coefficient):
    seen = []
    step = ScoringStep(
        lambda scores, microbatch: seen.append((scores, microbatch)),
        config(entropy_coef=coefficient).ppo,
    )
    logprobs, entropy, none = (torch.ones(2, requires_grad=True) * i for i in (1, 2, 3))
    microbatch = packed(trajectories(1)[0].segments[:1])
    step(Scores(logprobs, entropy, none, none), microbatch)
    ((scores, given),) = seen
    assert scores.entropy.requires_grad == (coefficient > 0)
    assert scores.logprobs is logprobs
    assert given.token_columns["proximal"].tolist() == [1.0, 1.0]
    assert not given.token_columns["proximal"].requires_grad


def packed(segments):
    (microbatch,) = microbatches(
        [Sequence(s.token_ids, s.action_mask) for s in segments], 4096, "padded", 64
    )
    return microbatch


def test_what_is_kept_passes_over_segments_that_are_not_trained_on():
    """They are in no microbatch."""
    played = next(t for t in trajectories(12) if len(t.segments) == 2 and not t.bootstrap)
    prompt = played.segments[0]
    silent = replace(prompt, action_mask=np.zeros_like(prompt.action_mask), turns=())
    (t,) = prepare([replace(played, segments=(silent, played.segments[1]))], "turn")
    microbatch = packed(t.trajectory.segments[1:])
    step = ScoringStep(lambda *_: (torch.zeros(()), {}), config().ppo)
    logprobs = -torch.arange(float(t.action_tokens))
    step(Scores(logprobs, 2 * logprobs, logprobs, logprobs), microbatch)
    step.keep([microbatch], [t])
    assert t.proximal_logprobs.tolist() == logprobs.tolist()
    assert t.entropies.tolist() == (2 * logprobs).tolist()


def updated(folder, cfg, packing="padded"):
    """Metrics and weights after one update, and how often the policy was scored apart."""
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 4, False, make_optimizer=sgd)
    engine.packing, calls, score = packing, [], engine.score
    engine.score = lambda *given: calls.append(given) or score(*given)
    metrics = ppo.ppo_update(engine, trajectories(12), cfg, 0)
    state = full_state(engine)
    engine.close()
    return metrics, state, len(calls)


@pytest.mark.parametrize(
    ("packing", "settings"),
    [
        ("padded", {}),
        ("packed", {"estimator": "reinforce_pp", "entropy_coef": 0.1}),
        ("packed", {"estimator": "rloo", "ratio_level": "turn", "thought_coef": 0.5}),
        ("padded", {"correction": "none"}),
    ],
)
def test_metrics_and_weights_are_those_of_two_passes(folder, monkeypatch, packing, settings):
    cfg = config(budget=64, **ONE_STEP | settings)
    monkeypatch.setattr(ppo, "reasoning_weights", lambda answer, *_: [0.5] * len(answer))
    metrics, state, scored = updated(folder, cfg, packing)
    assert scored == 0
    for module in (ppo, packed_update):
        monkeypatch.setattr(module, "scored_by_its_step", lambda _: False)
    expected, other, scored = updated(folder, cfg, packing)
    assert scored == 1
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-7, nan_ok=True), name
    assert metrics["entropy"] > 1
    assert metrics["parity_tokens"] > 0
    for name in state:
        assert relative(state[name], other[name]) < 1e-6, name
