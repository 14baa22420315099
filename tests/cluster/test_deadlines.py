"""Deadlines by the size of the model."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from cluster.deadlines import (
    evaluation_deadline_s,
    for_model,
    group_deadline_s,
    play_deadline_s,
    take_deadline_s,
)
from configs.contradictions import contradictions
from tests.support.learner import config


def test_a_large_model_has_the_time_that_its_weights_take(tmp_path):
    for name, gib in (
        ("model-00001-of-00002.safetensors", 100),
        ("model-00002-of-00002.safetensors", 40),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(gib * 2**30)  # no block of it is on the disk
    (tmp_path / "tokenizer.json").write_text("x" * 1000)
    cfg = config()
    before, after = asdict(cfg.cluster), asdict(for_model(cfg, str(tmp_path)).cluster)
    longer = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert longer == dict.fromkeys(
        ("start_deadline_s", "block_deadline_s", "sync_deadline_s"), 560.0
    )
    assert list(contradictions(for_model(cfg, str(tmp_path)))) == list(contradictions(cfg))


def test_runs_of_a_tiny_model_go_on_sharing_their_engines(tmp_path):
    """Whatever bytes a checkpoint's header or its value head has more."""
    (tmp_path / "model.safetensors").write_bytes(b"x" * 10**6)
    with (tmp_path / "value_head.safetensors").open("wb") as file:
        file.truncate(2**30)
    assert for_model(config(), str(tmp_path)) == config()


def test_episodes_have_the_time_of_their_blocks_and_of_every_restart_of_a_worker():
    cfg = config()
    rollout = replace(cfg.rollout, block=16, max_restarts=3)
    cluster = replace(cfg.cluster, block_deadline_s=500.0, start_deadline_s=70.0)
    cfg = replace(cfg, rollout=rollout, cluster=cluster)
    deadlines = [play_deadline_s(cfg, episodes) for episodes in (1, 16, 17)]
    assert deadlines == [1000.0 + 210.0, 1000.0 + 210.0, 1500.0 + 210.0]


@pytest.mark.parametrize(
    "key", ["start_deadline_s", "sync_deadline_s", "checkpoint_deadline_s", "block_deadline_s"]
)
def test_no_rank_gives_up_the_others_while_one_may_still_wait(key):
    cfg = config()
    cfg = replace(cfg, cluster=replace(cfg.cluster, **{key: 50_000.0}))
    waits = (evaluation_deadline_s(cfg), take_deadline_s(cfg), getattr(cfg.cluster, key))
    assert group_deadline_s(cfg) > max(waits)
    for section, episodes in (("eval", {"episodes": 10**5}), ("ppo", {"episodes": 10**5})):
        many = replace(cfg, **{section: replace(getattr(cfg, section), **episodes)})
        assert group_deadline_s(many) > max(evaluation_deadline_s(many), take_deadline_s(many))


def test_an_evaluation_has_the_time_of_its_parts_one_after_another():
    cfg = config()
    evaluation = replace(
        cfg.eval, episodes=30, sampled_questions=5, samples=4, variants={"a": {}, "b": {}}
    )
    greedy, sampled = play_deadline_s(cfg, 30), play_deadline_s(cfg, 20)
    assert evaluation_deadline_s(replace(cfg, eval=evaluation)) == 2 * (greedy + sampled)
    evaluation = replace(evaluation, sampled_questions=0)
    assert evaluation_deadline_s(replace(cfg, eval=evaluation)) == 2 * greedy
