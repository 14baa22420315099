"""Rollouts alone: tokens are of the initial model, and a line tells what was played."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.driver.rollout_only import VERSION, _learner_keys, _of_version, _taken, summary
from cluster.stream import collect
from cluster.stream.collect import Collector
from configs.load import load
from tests.cluster.stream.test_collect import FakeBuffer, Method, loaded
from tests.support.learner import config
from tests.support.trajectories import segment, trajectory


def test_sampled_tokens_are_of_version_0_and_prompts_of_none():
    played = trajectory(segments=(segment([(3, 5)], 8),))
    (changed,) = _of_version(played).segments
    assert changed.policy_versions.tolist() == [-1, -1, -1, 0, 0, -1, -1, -1]
    assert changed.policy_versions.dtype == np.int32
    assert changed.token_ids is played.segments[0].token_ids


@pytest.mark.parametrize(
    ("engines", "shown"), [([0.25, None, 0.75], ", engines idle 50%"), ([None], "")]
)
def test_a_line_counts_ends_and_what_failed(engines, shown):
    played = [trajectory("a"), trajectory("b", end="truncated", metrics={"success": 0.0})]
    line = summary(4, played, {"failed": 3, "engine_idle": engines}, 2.0)
    assert line == (
        "update 4: 2 episodes (1 terminated, 1 truncated, 3 failed) in 2.0 s; success 50.0%, "
        "reward -2.00, 14 sampled tokens" + shown
    )


def test_a_learner_is_told_what_it_has_to_turn_off():
    cfg = load("gp_l_debug", ["ppo.max_staleness=1", "sft.keep=[3]"])
    keys = "sft.steps=0 sft.keep=[] ppo.max_staleness=0"
    told = _learner_keys(cfg, Path("/out"), "/out/model")
    assert told == f"ppo.blocks=/out model.path=/out/model {keys}"
    assert load("gp_l_debug", ["ppo.max_staleness=1", "sft.keep=[3]", *told.split()]).ppo.blocks


def test_what_a_collector_gives_has_all_that_a_line_tells(monkeypatch):
    monkeypatch.setattr(collect, "wait_for", lambda value, *asked: value)
    monkeypatch.setattr(collect, "wait_until_ready", lambda *asked: None)
    monkeypatch.setattr(collect, "wait_for_all", lambda values, *asked: list(values))
    buffer = FakeBuffer()
    job = SimpleNamespace(cfg=config(max_staleness=0), buffer=buffer)
    collector = Collector(job, 0, lambda **fields: None)
    buffer.loads = Method(lambda: [loaded(1.0, 4.0), loaded(1.0, 2.0)])
    collector.forget_loads()
    for update in (1, 2):
        played, record = _taken(collector, update)
        first = played[0].segments[0]
        assert set(first.policy_versions[first.action_mask].tolist()) == {VERSION}
        assert summary(update, played, record, 2.0).startswith(f"update {update}: 3 episodes (")
        assert record["failed"] == 2
