"""The PPO phase: its order, what each update is given, and which seeds are played."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster import ppo_phase
from cluster.cursor import Cursor
from cluster.failures import ParityError
from cluster.ppo_phase import PPOPhase, training_requests
from configs.seeds import update_seeds
from learner.ppo import ppo_steps
from tests.cluster.fakes import (
    CrashingRank,
    FakeCollector,
    FakeEvaluation,
    FakePublisher,
    FakeRank,
    RecordedEvaluation,
    after_every_crash,
)
from tests.support.learner import config


@pytest.fixture
def updates(monkeypatch):
    """(trajectories, update, reference, version) of each update."""
    seen = []

    def update(engine, trajectories, cfg, number, reference, version):
        engine._done.append("learn")
        seen.append((trajectories, number, reference, version))
        return {"action_tokens": 6.0, "tokens": 9.0, "parity_mean_abs": 1e-6}

    monkeypatch.setattr(ppo_phase, "ppo_update", update)
    return seen


def phase(rank):
    collector, evaluation = FakeCollector(rank), FakeEvaluation(rank)
    return PPOPhase(rank, FakePublisher(rank), collector, evaluation), collector, evaluation


def test_engines_sleep_while_the_learner_works_and_every_update_is_published(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    phase(rank)[0].run()
    assert rank.done == [
        "sleep",
        "build",
        "publish",
        *["play", "sleep", "learn", "publish"] * 2,
        "export ppo",
        "evaluate ppo",
        "close",
    ]
    assert rank.cursor == Cursor("done", update=2)


def test_an_update_learns_from_the_policy_that_played(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    made, collector, _ = phase(rank)
    made.run()
    assert updates == [(["a", "b"], 0, None, 0), (["a", "b"], 1, None, 1)]
    assert [version for _, version in collector.collected] == [0, 1]
    assert [requests[0].id for requests, _ in collector.collected] == [
        "ppo/000001/000000",
        "ppo/000002/000000",
    ]
    assert rank.version == 2


def test_a_record_says_what_was_played_and_learned(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    phase(rank)[0].run()
    last = rank.of("ppo")[-1]
    assert (last["update"], last["updates"], last["version"]) == (2, 2, 2)
    assert (last["failed"], last["running"], last["sync_seconds"]) == (1, 2.0, 0.5)
    assert last["rollout_tokens_per_second"] * last["rollout_seconds"] == pytest.approx(6)
    assert last["learner_tokens_per_second"] * last["learn_seconds"] == pytest.approx(9)


def test_it_goes_on_after_the_cursor(tmp_path, updates):
    rank = FakeRank(config(updates=3), tmp_path)
    rank.cursor, rank.version = Cursor("ppo", update=2), 2
    phase(rank)[0].run()
    assert [(number, version) for _, number, _, version in updates] == [(2, 2)]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("estimator", "value"), [("gae", True), ("grpo", False)])
def test_it_begins_from_sft_if_there_was_any(tmp_path, updates, trained, estimator, value):
    cfg = config(updates=1, estimator=estimator, kl_coef=0.1)
    rank = FakeRank(cfg, tmp_path)
    if trained:
        (tmp_path / "sft").mkdir()
    phase(rank)[0].run()
    start = str(tmp_path / "sft") if trained else "initial"
    assert rank.opened == [(start, ppo_steps(cfg.ppo), value), ("reference", start)]
    assert updates[0][2] == "reference"


def test_checkpoints_and_evaluations_come_on_the_way_and_not_twice_at_the_end(tmp_path, updates):
    cfg = config(updates=4)
    cfg = replace(
        cfg,
        learner=replace(cfg.learner, checkpoint_every=2),
        eval=replace(cfg.eval, every=2),
    )
    rank = FakeRank(cfg, tmp_path)
    made, _, evaluation = phase(rank)
    made.run()
    assert rank.done.count("checkpoint") == 1
    assert rank.done[11:14] == ["evaluate ppo", "checkpoint", "play"]
    assert evaluation.runs == [("ppo", 2, 0), ("ppo", 0, 0)]


def test_an_engine_with_other_weights_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_phase, "ppo_update", lambda *_, **__: {"parity_mean_abs": 0.1})
    rank = FakeRank(config(updates=1), tmp_path)
    with pytest.raises(ParityError, match="PPO update 1: log-probabilities"):
        phase(rank)[0].run()
    assert rank.of("ppo") == []


def test_every_update_plays_new_seeds_and_a_group_shares_one():
    cfg = config(episodes=6, group_size=3)
    begin = update_seeds(cfg, 1).start
    first, second = training_requests(cfg, 1), training_requests(cfg, 2)
    assert [(r.seed, r.group_id, r.sample_index) for r in first] == [
        (seed, seed, play) for seed in (begin, begin + 1) for play in range(3)
    ]
    assert {r.seed for r in second} == {begin + 2, begin + 3}
    assert [r.id for r in first] == [f"ppo/000001/{i:06d}" for i in range(6)]
    assert {(r.variant, r.temperature, r.sampling_seed, r.bootstrap) for r in first} == {
        ("rollout", 1.0, 7, False)
    }


def test_whatever_action_it_dies_at_all_that_is_due_is_recorded_once(tmp_path, updates):
    """Also where an evaluation and a checkpoint are due after the same update."""
    cfg = config(updates=6)
    learner, evaluation = replace(cfg.learner, checkpoint_every=2), replace(cfg.eval, every=2)
    cfg = replace(cfg, learner=learner, eval=evaluation)

    def begin(disk, crash):
        disk.setdefault("cursor", Cursor("ppo"))
        rank = CrashingRank(cfg, tmp_path, disk, crash)
        made = FakePublisher(rank), FakeCollector(rank), RecordedEvaluation(rank)
        if rank.cursor.phase == "ppo":
            PPOPhase(rank, *made).run()
        assert rank.cursor == Cursor("done", update=6)

    def recorded(records):
        return [(r["kind"], r["update"], r.get("variant")) for r in records]

    smooth = {}
    begin(smooth, None)
    wanted = recorded(smooth["records"])
    assert len(set(wanted)) == len(wanted)
    assert [w[1] for w in wanted if w[0] == "ppo"] == [1, 2, 3, 4, 5, 6]
    assert [w[1] for w in wanted if w[2] == "train"] == [2, 4, 0]
    crashed = after_every_crash(begin)
    assert len(crashed) > 40
    assert all(recorded(records) == wanted for records in crashed)
