"""An update of one step learns the same without a scoring pass, and says the same of it."""

from __future__ import annotations

import pytest

from learner import packed_update, ppo
from learner.engine import TrainingEngine
from learner.scoring_step import scored_by_its_step
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
    assert scored_by_its_step(config(**ONE_STEP | settings).ppo) == left_out


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
        assert metrics[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert metrics["entropy"] > 1
    assert metrics["parity_tokens"] > 0
    for name in state:
        assert relative(state[name], other[name]) < 1e-6, name
