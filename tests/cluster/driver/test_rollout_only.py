"""Rollouts alone: tokens are of the initial model, and a line tells what was played."""

import json
import os
import queue
import signal
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.driver import rollout_only
from cluster.driver.rollout_only import VERSION, _learner_keys, _of_version, _taken, summary
from cluster.run import stop_signals
from cluster.run.last_resort import DONE
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


@pytest.fixture
def rollouts(monkeypatch, tmp_path):
    """Records an update whose pool and engines are fake; `play` and `end` are its two parts."""
    played = [trajectory("a")]
    (tmp_path / "out").mkdir()

    def begin(play, end):
        class Pool:
            def __enter__(self):
                return self

            def __exit__(self, *failure):
                end()

            def acquire(self, cfg, model, learn):
                return None, [], None

            def release(self):
                end()

        def taken(collector, update):
            play()
            return played, {"failed": 0, "engine_idle": [None]}

        for name, fake in {
            "RolloutPool": Pool,
            "prepare_model": lambda cfg, out: str(tmp_path),
            "metadata_of": lambda *_, **__: {},
            "Renderer": SimpleNamespace(load=lambda model: None),
            "_started": lambda job: None,
            "_taken": taken,
            "watched": lambda *_: nullcontext(),
            "write_blocks": lambda *_: None,
            "conversation": lambda *_: {"text": "a"},
        }.items():
            monkeypatch.setattr(rollout_only, name, fake)
        rollout_only.record_rollouts(load("gp_l_debug"), tmp_path / "out", 1)

    return begin


def test_another_signal_ends_the_end_of_rollouts_by_force(rollouts, monkeypatch, tmp_path):
    forced = queue.Queue()
    monkeypatch.setattr(stop_signals, "end_at_once", lambda *words: forced.put(words))

    def interrupt():
        os.kill(os.getpid(), signal.SIGINT)

    def end():
        while forced.empty():
            interrupt()
            time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        rollouts(interrupt, end)
    assert forced.get() == ("ended by force after SIGINT", 130)
    assert not (tmp_path / "out" / "episodes.jsonl").exists()
    while not forced.empty():
        forced.get()
    rollouts(lambda: None, end)
    assert forced.get() == DONE
    (line,) = (tmp_path / "out" / "episodes.jsonl").read_text().splitlines()
    assert json.loads(line) == {"update": 1, "text": "a"}
