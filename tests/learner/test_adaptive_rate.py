"""The adaptive learning rate against the rule of rl_games, and over updates and checkpoints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from learner import ppo
from learner.adaptive_rate import MOST, adapt_rate, rate_factor
from learner.engine import TrainingEngine
from learner.optimizer import learning_rate
from learner.ppo import critic_steps, ppo_steps, ppo_update
from tests.support.learner import config, load_state, save_llama, save_state, trajectories


def rl_games(rate, kl, threshold, lowest, highest):
    """AdaptiveScheduler.update of rl_games 1.6, written from its definition."""
    if kl > 2.0 * threshold:
        return max(rate / 1.5, lowest)
    if kl < 0.5 * threshold:
        return min(rate * 1.5, highest)
    return rate


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_rate_is_that_of_rl_games(scale):
    rng, counters, rate = np.random.default_rng(3), {"steps": 5}, 1e-4
    limits = 1e-4 * 1.5**-MOST, 1e-4 * 1.5**MOST
    for kl in rng.exponential(scale * 0.01, 200):
        adapt_rate(counters, kl, 0.01)
        rate = rl_games(rate, kl, 0.01, *limits)
        assert 1e-4 * rate_factor(counters) == pytest.approx(rate, rel=1e-9)
    assert counters["steps"] == 5


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0201, 1 / 1.5), (0.02, 1.0), (0.005, 1.0), (0.0049, 1.5)]
)
def test_within_the_band_it_stays(kl, factor):
    counters: dict[str, int] = {}
    assert rate_factor(counters) == 1.0
    adapt_rate(counters, kl, 0.01)
    assert rate_factor(counters) == pytest.approx(factor)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("rate") / "model")


def configured(**settings):
    return config(critic_warmup=1, updates=5, **settings)  # the schedule ends at 0


def start(folder, cfg):
    critic = cfg.ppo.estimator == "gae"
    steps = ppo_steps(cfg.ppo)
    frozen = critic_steps(cfg.ppo)
    return TrainingEngine(folder, cfg, cfg.ppo.optimizer, steps, critic, frozen_steps=frozen)


def rates(engine, cfg, updates):
    """The policy's learning rate over its schedule's, at the end of each update."""
    shares = []
    for number in updates:
        metrics = ppo_update(engine, trajectories(12, number), cfg, number)
        frozen = critic_steps(cfg.ppo)
        step = engine.counters["steps"] - 1 - frozen
        scheduled = learning_rate(cfg.ppo.optimizer, max(0, step), ppo_steps(cfg.ppo) - frozen)
        shares.append(metrics["lr"] / scheduled)
    return shares


@pytest.mark.parametrize(("desired", "factor"), [(1e-9, 1 / 1.5), (1e3, 1.5), (0.0, 1.0)])
def test_each_update_adapts_the_next_and_a_checkpoint_keeps_it(folder, tmp_path, desired, factor):
    cfg = configured(desired_kl=desired)
    engine = start(folder, cfg)
    assert rates(engine, cfg, range(3)) == pytest.approx([0.0, 1.0, factor])
    save_state(engine, tmp_path)
    engine.close()
    resumed = start(folder, cfg)
    load_state(resumed, tmp_path)
    assert rates(resumed, cfg, [3]) == pytest.approx([factor**2])
    resumed.close()


def test_what_counts_is_the_mean_kl_of_an_updates_last_epoch(folder, monkeypatch):
    cfg, adapted, steps = config(desired_kl=0.01), [], []
    monkeypatch.setattr(ppo, "adapt_rate", lambda *given: adapted.append(given))
    engine = start(folder, cfg)
    step = engine.step
    engine.step = lambda *given: steps.append(step(*given)) or steps[-1]
    ppo_update(engine, trajectories(12), cfg, 0)
    assert len(steps) == 6
    kl = np.mean([metrics["kl"] for metrics in steps[3:]])
    assert adapted == [(engine.counters, pytest.approx(kl), 0.01)]
    assert kl != pytest.approx(np.mean([metrics["kl"] for metrics in steps]), rel=0.05)
    engine.close()


RAW = {"normalize_advantages": False}


def with_return(t, total):
    """The same trajectory; its first turn has all of its return."""
    first = t.segments[0]
    zero = [replace(s, turns=tuple(replace(u, reward=0.0) for u in s.turns)) for s in t.segments]
    turns = (replace(first.turns[0], reward=total), *zero[0].turns[1:])
    return replace(t, segments=(replace(first, turns=turns), *zero[1:]))


@pytest.mark.parametrize(
    ("settings", "returns", "factor"),
    [
        ({"estimator": "grpo"}, [0.1] * 12, 1.0),
        ({"estimator": "grpo"}, [0.1] * 4 + [0.7] * 4 + [-1.0] * 4, 1.0),
        ({"estimator": "rloo"}, [0.1] * 12, 1.0),
        ({"estimator": "rloo", **RAW}, [1e12, 1e12 + 1] * 6, 1.0),
        ({"estimator": "reinforce_pp"}, [0.1] * 12, 1.0),
        ({"estimator": "reinforce_pp"}, [12345.678] * 12, 1.0),
        ({"estimator": "grpo"}, [0.1] * 11 + [0.2], 1.5),
        ({"estimator": "grpo", "group_deviation": "none"}, [0.0] * 11 + [1e-6], 1.5),
        ({"estimator": "rloo", **RAW}, [0.0] * 11 + [1e-6], 1.5),
        ({"estimator": "gae"}, [0.1] * 12, 1.5),
        ({"estimator": "gae", **RAW}, [0.0] * 11 + [1e-6], 1.5),
        ({"estimator": "gae", **RAW}, [0.0] * 12, 1.0),
    ],
)
def test_an_update_without_signal_leaves_the_rate(folder, settings, returns, factor):
    cfg = config(desired_kl=1e3, **settings)
    engine = start(folder, cfg)
    played = [with_return(t, r) for t, r in zip(trajectories(12), returns, strict=True)]
    ppo_update(engine, played, cfg, 0)
    assert rate_factor(engine.counters) == pytest.approx(factor)
    engine.close()
