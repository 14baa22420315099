"""What an evaluation plays, and what it says of its episodes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster import evaluate as module
from cluster.evaluate import evaluate, evaluation_requests, measures, outcomes, summarise
from report.statistics import wilson
from rollout.trajectory_summary import TrajectorySummary
from tests.support.learner import config


def summary(number, success, end="terminated", tokens=10):
    metrics = {"success": success, "first_try": 0.0}
    return TrajectorySummary(f"x/{number}", end, "", 2.0 * success, 30, tokens, 0, metrics)


PLAYED = [summary(0, 1.0), summary(1, 0.0, "truncated"), summary(2, 0.0, "failed", 1000)]


def test_a_measure_is_the_mean_of_the_episodes_that_have_it():
    played = [{"success": 1.0, "recognition": 0.5}, {"success": 0.0}, {"recognition": 1.0}]
    assert measures(played) == {"success": 0.5, "recognition": 0.75}
    assert measures([]) == {}


def test_every_stage_plays_the_same_seeds():
    cfg = config()
    cfg = replace(cfg, eval=replace(cfg.eval, episodes=3, seed=50, temperature=0.5))
    start, ppo = (evaluation_requests(cfg, stage, "hard") for stage in ("start", "ppo"))
    assert [r.id for r in ppo] == [f"ppo/hard/{i:06d}" for i in range(3)]
    assert [r.seed for r in start] == [r.seed for r in ppo] == [50, 51, 52]
    assert {(r.variant, r.temperature, r.sampling_seed) for r in ppo} == {("eval/hard", 0.5, 7)}


def test_failed_episodes_are_counted_and_no_more():
    told = summarise(PLAYED, seconds=4.0)
    assert (told["success"], told["n"], told["reward"]) == (0.5, 2, 1.0)
    assert told["interval"] == list(wilson(1, 2))
    assert told["ends"] == {"terminated": 1, "truncated": 1, "failed": 1}
    assert (told["tokens_per_second"], told["seconds"]) == (20 / 4, 4.0)


def test_an_outcome_is_found_by_its_seed():
    requests = [SimpleNamespace(id=f"x/{i}", seed=90 - i) for i in range(3)]
    rows = outcomes(requests, PLAYED, "sft", "hard")
    assert [(row["seed"], row["end"]) for row in rows] == [
        (88, "failed"),
        (89, "truncated"),
        (90, "terminated"),
    ]
    assert rows[-1] == {
        "stage": "sft",
        "variant": "hard",
        "seed": 90,
        "end": "terminated",
        "reward": 2.0,
        "success": 1.0,
        "first_try": 0.0,
    }


@pytest.mark.parametrize("samples", [4])
def test_a_variant_is_played_summed_up_and_sampled(monkeypatch, samples):
    cfg, first = config(), []
    buffer = SimpleNamespace(first=SimpleNamespace(remote=lambda n: first.append(n) or "refs"))
    monkeypatch.setattr(module.ray, "get", lambda ref: ref)
    monkeypatch.setattr(module, "fetch", lambda refs: [refs, refs])
    monkeypatch.setattr(module, "conversation", lambda t, renderer: {"told": (t, renderer)})
    cfg = replace(cfg, eval=replace(cfg.eval, episodes=3))

    def collect(cfg, buffer, requests):
        return [replace(s, id=r.id) for s, r in zip(PLAYED, requests, strict=True)]

    monkeypatch.setattr(module, "collect", collect)
    record, shown, rows = evaluate(cfg, buffer, "renderer", "sft", "hard")
    assert (record["stage"], record["variant"], record["n"]) == ("sft", "hard", 2)
    assert shown == [{"stage": "sft", "told": ("refs", "renderer")}] * 2
    assert first == [samples]
    assert [row["seed"] for row in rows] == [cfg.eval.seed + i for i in range(3)]
