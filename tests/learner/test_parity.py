"""Parity: the metrics against their definitions, over the tokens of one version."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from learner.engine import TrainingEngine
from learner.parity import correction_metrics, parity, parity_metrics
from learner.slack import LEAST_TOKENS
from learner.training_trajectory import prepare
from tests.support.learner import config, save_llama, trajectories
from tests.support.trajectories import mark_failed


def of_version(t, version):
    """The trajectory as if that version had sampled it."""
    segments = [
        replace(s, policy_versions=np.where(s.action_mask, version, -1).astype(np.int32))
        for s in t.segments
    ]
    return replace(t, segments=tuple(segments))


def scored_trajectories():
    """Two of version 3, one of version 2, with gaps between both log-probabilities."""
    played = [of_version(t, v) for t, v in zip(trajectories(3), (3, 3, 2), strict=True)]
    prepared = prepare(played, "turn")
    rng = np.random.default_rng(0)
    for t in prepared:
        gaps = rng.normal(0, 0.1, t.action_tokens)
        t.proximal_logprobs = (t.behavior_logprobs + gaps).astype(np.float32)
    return prepared


def test_metrics_are_means_over_the_tokens_of_the_version():
    prepared = scored_trajectories()
    gaps = np.concatenate(
        [t.proximal_logprobs.astype(float) - t.behavior_logprobs for t in prepared[:2]]
    )
    metrics = parity_metrics(prepared, 3, 1)
    assert metrics["parity_tokens"] == len(gaps)
    assert parity_metrics(prepared, 2, 1)["parity_tokens"] == prepared[2].action_tokens
    assert metrics["parity_mean_abs"] == pytest.approx(np.abs(gaps).mean(), rel=1e-12)
    # KL(behaviour || proximal): exp(d) - 1 - d with d = proximal - behaviour, not the reverse
    expected = np.mean(np.exp(gaps) - 1 - gaps)
    assert metrics["parity_kl"] == pytest.approx(expected, rel=1e-9)
    assert metrics["parity_kl"] != pytest.approx(np.mean(np.exp(-gaps) - 1 + gaps), rel=1e-3)


def test_without_a_token_of_the_version_nothing_is_said_to_be_equal():
    metrics = parity_metrics(scored_trajectories(), 4, 2)
    assert metrics.pop("parity_tokens") == 0
    assert sorted(metrics) == [
        "parity_kl",
        "parity_mean_abs",
        "parity_most_engine",
        "parity_worst_engine",
        "parity_worst_mean_abs",
        "parity_worst_tokens",
    ]
    assert np.isnan([*metrics.values()]).all()
    of_none = parity_metrics([], 3, 2)
    assert of_none.pop("parity_tokens") == 0
    assert np.isnan([*of_none.values()]).all()


def played_by(worker, gaps, behavior=0.0, version=3):
    """A trajectory of an engine, whose proximal log-probabilities are so far from its own."""
    n = len(gaps)
    return SimpleNamespace(
        trajectory=SimpleNamespace(worker=worker),
        behavior_logprobs=np.full(n, behavior),
        proximal_logprobs=behavior + np.asarray(gaps),
        policy_versions=np.full(n, version),
        turn_lengths=np.full(n, 1),
    )


def test_one_wrong_engine_of_many_is_seen_though_the_mean_hides_it():
    right = [played_by(worker, np.full(100, 0.01)) for worker in range(32) if worker != 7]
    wrong = [played_by(7, np.full(60, -0.9)), played_by(7, np.full(40, -0.9))]
    unknown = played_by(-1, np.full(1000, 0.01))
    metrics = parity_metrics([*right[:9], *wrong, *right[9:], unknown], 3, 32)
    assert metrics["parity_mean_abs"] == pytest.approx((4100 * 0.01 + 90) / 4200)
    assert metrics["parity_worst_engine"] == 7
    assert metrics["parity_worst_mean_abs"] == pytest.approx(0.9)
    assert metrics["parity_worst_tokens"] == 100
    last = parity_metrics([played_by(31, np.full(64, 0.5)), *right[:9]], 3, 32)
    assert last["parity_worst_engine"] == 31
    broken = parity_metrics([*right, *wrong, played_by(3, [np.nan] * 64)], 3, 32)
    assert broken["parity_worst_engine"] == 3
    assert np.isnan(broken["parity_worst_mean_abs"])


def test_a_handful_of_an_engines_tokens_and_those_of_other_versions_say_nothing():
    right = played_by(0, np.full(100, 0.01))
    stale = played_by(1, np.full(900, np.inf), version=2)
    few = played_by(1, np.full(LEAST_TOKENS - 1, 0.9))
    metrics = parity_metrics([right, few, stale], 3, 2)
    assert (metrics["parity_worst_engine"], metrics["parity_worst_tokens"]) == (0, 100)
    assert metrics["parity_most_engine"] == 1, "of the gap that is there, it has the most"
    unknown = parity_metrics([played_by(-1, [0.9])], 3, 2)
    assert np.isnan(unknown["parity_most_engine"])
    enough = parity_metrics([right, few, played_by(1, [0.9])], 3, 2)
    assert enough["parity_worst_engine"] == 1
    # Between engines, one's few tokens count for less than another's many.
    both = parity_metrics(
        [played_by(0, np.full(64, 0.05)), played_by(1, np.full(10_000, 0.03))], 3, 2
    )
    assert both["parity_worst_engine"] == 1


def test_the_overlap_of_the_worst_engine_is_its_own_alone():
    right = [played_by(worker, np.zeros(200)) for worker in range(1, 16)]
    gaps = np.random.default_rng(0).normal(-2, 2, 200)
    metrics = correction_metrics(
        [*right, played_by(0, gaps), played_by(3, [-9.0])], config().ppo, 16
    )
    near = np.minimum(np.exp(gaps), 20)
    assert metrics["correction_worst_engine"] == 0
    assert metrics["correction_worst_tokens"] == 200
    expected = near.sum() ** 2 / (200 * (near**2).sum())
    assert metrics["correction_worst_overlap"] == pytest.approx(expected)
    assert metrics["correction_overlap"] > 0.5 > expected
    few = correction_metrics([played_by(0, gaps[:63]), *right], config().ppo, 16)
    assert few["correction_worst_engine"] != 0
    tied = [played_by(0, gaps[:64]), played_by(1, np.tile(gaps[:64], 9))]
    assert correction_metrics(tied, config().ppo, 2)["correction_worst_engine"] == 1


@pytest.mark.parametrize("level", ["token", "turn", "turn_mean"])
@pytest.mark.parametrize("correction", ["truncated", "masked", "sequence", "none"])
def test_correction_metrics_are_of_all_tokens_factors(correction, level):
    prepared = scored_trajectories()
    ppo = config(correction=correction, correction_cap=1.1, ratio_level=level).ppo
    weights, factors, divergences = [], [], []
    for t in prepared:
        gaps = t.proximal_logprobs.astype(float) - t.behavior_logprobs
        weights += np.exp(gaps).tolist()
        divergences += (np.exp(gaps) - 1 - gaps).tolist()
        if correction == "sequence" or level != "token":
            turns = np.split(gaps, np.cumsum(t.turn_lengths)[:-1])
            whole = np.mean if level == "turn_mean" else np.sum
            gaps = np.concatenate([np.full(len(turn), whole(turn)) for turn in turns])
        factors += np.exp(gaps).tolist()
    if correction == "masked":
        factors = [w if 1 / 1.1 <= w <= 1.1 else 0.0 for w in factors]
    else:
        factors = [1.0 if correction == "none" else min(w, 1.1) for w in factors]
    metrics = correction_metrics(prepared, ppo, 1)
    overlap = sum(weights) ** 2 / (len(weights) * sum(w * w for w in weights))
    assert metrics["correction_overlap"] == pytest.approx(overlap, rel=1e-9)
    share = sum(factors) ** 2 / (len(factors) * sum(c * c for c in factors))
    assert metrics["correction_ess"] == pytest.approx(share, rel=1e-9)
    assert (share < 0.999) == (correction != "none")
    assert metrics["correction_mean"] == pytest.approx(np.mean(weights), rel=1e-9)
    assert metrics["correction_kl"] == pytest.approx(np.mean(divergences), rel=1e-9)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_the_overlap_sees_what_truncated_factors_hide_and_no_token_decides_alone(sigma):
    """Log-normal w of mean 1 have the share exp(-sigma²): 37, 1.8 and 0.01 %."""
    n, rng = 20_000, np.random.default_rng(0)
    t = played_by(0, rng.normal(-(sigma**2) / 2, sigma, n))
    metrics = correction_metrics([t], config().ppo, 1)
    assert (metrics["correction_ess"] > 0.2) == (sigma < 3)
    assert (metrics["correction_overlap"] > 0.2) == (sigma < 2)
    t.proximal_logprobs = np.where(np.arange(n) == 7, 600.0, 0.0)
    assert correction_metrics([t], config().ppo, 1)["correction_overlap"] > 0.9


def test_a_rank_without_trajectories_adds_nothing_to_the_correction():
    metrics = correction_metrics([], config(correction="sequence").ppo, 2)
    assert {name: value for name, value in metrics.items() if "worst" not in name} == {
        "correction_ess": 0,
        "correction_overlap": 0,
        "correction_mean": 0,
        "correction_kl": 0,
    }
    assert np.isnan([value for name, value in metrics.items() if "worst" in name]).all()


def test_it_scores_at_the_temperature_of_sampling_and_leaves_failures_out(tmp_path):
    folder = save_llama(tmp_path / "model")
    cfg = config(temperature=0.5)
    engine = TrainingEngine(folder, cfg, cfg.ppo.optimizer, 1, False)
    played = trajectories(4)
    cold = parity(engine, played, cfg, 0)
    warm = parity(engine, played, config(temperature=1.0), 0)
    assert cold["parity_mean_abs"] != pytest.approx(warm["parity_mean_abs"], rel=1e-3)
    valid = parity(engine, [*played[:3], mark_failed(played[3], "x")], cfg, 0)
    assert valid["parity_tokens"] == sum(t.action_tokens for t in played[:3])
    engine.close()
