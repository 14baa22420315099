"""Whose turn it is on shared GPUs: engines sleep before every piece of learning, and only then."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cluster import learner_loop
from cluster.failures import DeadlineExceeded
from cluster.learner_loop import LearnerLoop
from cluster.weights.object_store import Published
from tests.support.learner import config

PHASES = {
    "sft": ["sleep", "build", "publish", "play start", "sleep", "learn", "publish", "play sft"],
    "ppo": ["sleep", "build", "publish", *["play", "sleep", "learn", "publish"] * 2, "play ppo"],
}


class Loop(LearnerLoop):
    """A learner loop that notes what it would do."""

    def __init__(self, cfg, tmp_path, rank=0):
        self.cfg, self.rank, self.version, self.log = cfg, rank, 0, None
        self.checkpoints, self.done = tmp_path, []
        self.cursor = SimpleNamespace(step=0, update=0)
        self.job = SimpleNamespace(model="m", workers=[self, self])
        self.channel = SimpleNamespace(publish=self._publish)
        self.sleep = SimpleNamespace(remote=lambda: "asleep")

    def _publish(self, version, engine):
        self.done.append("publish")
        return Published(version, 0.0, 1, 1) if self.rank == 0 else None

    def _engine(self, *_):
        self.done.append("build")
        return SimpleNamespace(close=lambda: None, export=lambda folder: None)

    def _sft_steps(self, *_):
        self.done.append("learn")

    def _collect(self, requests):
        self.done.append("play")
        return {}

    def _take(self):
        return []

    def _check_parity(self, *_):
        pass

    def evaluate(self, engine, stage, update=0):
        self.done.append(f"play {stage}")

    def _move(self, cursor):
        pass


@pytest.fixture
def noted(monkeypatch):
    """(make, waits): a loop, and what was waited for."""
    waits = []

    def make(folder, layout, rank=0):
        cfg = config(updates=2)
        cluster = replace(cfg.cluster, layout=layout, weight_proof=False)
        sft = replace(cfg.sft, steps=1)
        loop = Loop(replace(cfg, cluster=cluster, sft=sft), folder, rank)

        def answers(refs, who, what, seconds, key, begin):
            waits.append((refs, who, what, seconds, key))
            loop.done.append("sleep")

        def update(*_, **__):
            loop.done.append("learn")
            return {"action_tokens": 1, "tokens": 1}

        monkeypatch.setattr(learner_loop, "answers", answers)
        monkeypatch.setattr(learner_loop, "ppo_update", update)
        return loop

    return make, waits


@pytest.mark.parametrize("phase", PHASES)
def test_colocated_engines_sleep_while_the_learner_works(noted, tmp_path, phase):
    make, waits = noted
    loop = make(tmp_path, "colocated")
    getattr(loop, phase)()
    assert loop.done == PHASES[phase]
    refs, *named = waits[0]
    assert refs == ["asleep", "asleep"]
    assert named == ["rollout worker", "go to sleep", 120.0, "sync_deadline_s"]


@pytest.mark.parametrize("phase", PHASES)
def test_engines_on_gpus_of_their_own_never_sleep(noted, tmp_path, phase):
    make, waits = noted
    loop = make(tmp_path, "disaggregated")
    getattr(loop, phase)()
    assert loop.done == [what for what in PHASES[phase] if what != "sleep"]
    assert waits == []


def test_only_rank_0_sends_them_to_sleep(noted, tmp_path):
    make, waits = noted
    loop = make(tmp_path, "colocated", rank=1)
    loop.take_gpus()
    assert waits == []


def test_the_learners_spare_memory_is_given_back_before_they_wake(noted, tmp_path, monkeypatch):
    loop = noted[0](tmp_path, "colocated")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: loop.done.append("empty"))
    loop.publish(None)
    assert loop.done == ["empty", "publish"]


def test_an_engine_that_does_not_fall_asleep_is_named(noted, tmp_path, monkeypatch):
    loop = noted[0](tmp_path, "colocated")

    def late(refs, who, what, seconds, key, begin):
        raise DeadlineExceeded(f"{who} 1", what, seconds, key)

    monkeypatch.setattr(learner_loop, "answers", late)
    with pytest.raises(DeadlineExceeded, match="rollout worker 1 did not go to sleep within 120 s"):
        loop.take_gpus()


def test_no_token_of_sft_is_lost_or_counted_twice_over_a_resume(tmp_path, monkeypatch):
    sft = replace(config().sft, steps=20, log_every=8, eval_every=5, keep=[11])
    cfg = replace(config(), sft=sft, learner=replace(config().learner, checkpoint_every=6))
    records, trained = [], []

    class Interrupted(Loop):
        def _write(self, kind, **numbers):
            records.append({"kind": kind, **numbers})

        def _checkpoint(self, engine, cursor):
            self.cursor = cursor

        def evaluate(self, engine, stage, update=0, step=0):
            counted = sum(r["tokens_trained"] for r in records if r["kind"] == "sft")
            assert step > 0
            assert counted == sum(trained[:step])

    def step(*_):
        trained.append(len(trained) + 1)  # other tokens each step
        if len(trained) == 14:  # after the checkpoint of step 12
            raise KeyboardInterrupt
        return {"tokens": float(trained[-1])}

    monkeypatch.setattr(learner_loop, "sft_step", step)
    loop = Interrupted(cfg, tmp_path)
    loop.demonstrations = iter(range(99))
    engine = SimpleNamespace(export=lambda folder: None)
    with pytest.raises(KeyboardInterrupt):
        LearnerLoop._sft_steps(loop, engine, None, 0)
    assert loop.cursor.step == 12
    records[:] = [r for r in records if loop.cursor.covers(r)]
    del trained[12:]
    monkeypatch.setattr(
        learner_loop, "sft_step",
        lambda *_: trained.append(len(trained) + 1) or {"tokens": float(trained[-1])},
    )  # fmt: skip
    LearnerLoop._sft_steps(loop, engine, None, loop.cursor.step)
    assert len(trained) == 20
    assert sum(r["tokens_trained"] for r in records if r["kind"] == "sft") == sum(trained)


def test_a_run_that_trains_nothing_evaluates_its_start_and_is_done(noted, tmp_path, monkeypatch):
    loop, moved = noted[0](tmp_path, "disaggregated"), []
    monkeypatch.setattr(loop, "_move", moved.append)
    loop.cfg = replace(
        loop.cfg, sft=replace(loop.cfg.sft, steps=0), ppo=replace(loop.cfg.ppo, updates=0)
    )
    loop.sft()
    assert loop.done == ["build", "publish", "play start"]
    assert [cursor.phase for cursor in moved] == ["done"]
