"""The PPO phase: its order, what each update is given, and which seeds are played."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.failures import ParityError, RunStopped
from cluster.phases import ppo_phase
from cluster.phases.ppo_phase import PPOPhase
from cluster.stream.collect import Batch
from learner.ppo import critic_steps, ppo_steps
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

    def update(engine, trajectories, cfg, number, reference, version, packed):
        engine._done.append("learn")
        assert packed in (None, f"packed {number + 1}")
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
        "begin",
        *["take", "sleep", "learn", "send", "arrived"] * 2,
        "export ppo",
        "evaluate ppo",
        "keep best",
        "close",
    ]
    assert rank.cursor == Cursor("done", update=2)


def test_an_update_learns_from_the_policy_that_played(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    made, collector, _ = phase(rank)
    made.run()
    assert updates == [(["a", "b"], 0, None, 0), (["a", "b"], 1, None, 1)]
    assert collector.collected == [1, 2]
    assert collector.begun == (1, 0)
    assert rank.version == 2


def test_batches_are_packed_for_the_policy_that_is_trained(tmp_path, updates, monkeypatch):
    monkeypatch.setattr(ppo_phase, "pack_ahead", lambda *arguments: arguments)
    rank = FakeRank(config(updates=1), tmp_path)
    made, collector, _ = phase(rank)
    made.run()
    engine, *others = collector.pack(["a", "b"], [["a"], ["b"]])
    assert engine._done is rank.done
    assert others == [rank.cfg.ppo, ["a", "b"], [["a"], ["b"]]]


def test_where_engines_play_ahead_weights_travel_while_the_learner_goes_on(tmp_path, updates):
    rank = FakeRank(config(updates=3, max_staleness=1), tmp_path)
    phase(rank)[0].run()
    assert rank.done[4:18] == [
        *["take", "sleep", "learn", "send"],
        *["take", "sleep", "learn", "arrived", "send"],
        *["take", "sleep", "learn", "arrived", "send"],
    ]
    assert rank.done[18:20] == ["arrived", "export ppo"]


def test_an_evaluation_waits_for_its_weights_and_the_next_weights_for_it(tmp_path, updates):
    cfg = config(updates=3, max_staleness=1)
    rank = FakeRank(replace(cfg, eval=replace(cfg.eval, every=1)), tmp_path)
    made, collector, _ = phase(rank)
    made.run()
    assert collector.forgotten == 0, "engines play for the next update beside it"
    assert rank.done[4:] == [
        *["take", "sleep", "learn", "send", "arrived", "evaluate ppo", "keep best"],
        *["take", "sleep", "learn", "evaluated", "send", "arrived", "evaluate ppo", "keep best"],
        *["take", "sleep", "learn", "evaluated", "send"],
        *["arrived", "export ppo", "evaluate ppo", "keep best", "close"],
    ]


def test_a_batch_whose_policies_have_parted_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_phase, "ppo_update", lambda *_, **__: {"correction_ess": 0.1})
    rank = FakeRank(config(updates=1), tmp_path)
    with pytest.raises(ParityError, match=r"PPO update 1: .* 10.0% of its tokens, less than 20%"):
        phase(rank)[0].run()


def test_a_record_says_what_was_played_and_learned(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    phase(rank)[0].run()
    last = rank.of("ppo")[-1]
    assert (last["update"], last["updates"], last["version"]) == (2, 2, 2)
    assert (last["failed"], last["running"]) == (1, 2.0)
    assert 0 <= last["sync_waited_seconds"] <= last["sync_seconds"] < last["seconds"]
    assert 0 < last["learner_idle"] < 1
    assert last["learn_seconds"] <= last["seconds"] * (1 - last["learner_idle"])
    assert last["rollout_tokens_per_second"] == 6 / 0.25
    assert last["learner_tokens_per_second"] * last["learn_seconds"] == pytest.approx(9)


def test_a_record_is_of_all_that_was_played_for_the_update(tmp_path, updates, monkeypatch):
    batch = Batch(["a"], 2, {"failed": 0, "tokens_played": 30, "parity_mean_abs": 2.0})
    monkeypatch.setattr(FakeCollector, "take", lambda self, update: batch)
    rank = FakeRank(config(updates=1), tmp_path)
    phase(rank)[0].run()
    (record,) = rank.of("ppo")
    assert (record["tokens"], record["tokens_played"], record["tokens_scored"]) == (9, 30, 9)
    assert record["parity_mean_abs"] == 2.0, "the batch's in the place of the learner's"


def test_a_rank_that_knows_no_load_records_no_rate(tmp_path, updates):
    rank = FakeRank(config(updates=1), tmp_path)
    made, collector, _ = phase(rank)
    collector.loads = dict
    made.run()
    assert "rollout_tokens_per_second" not in rank.of("ppo")[0]


def test_it_goes_on_after_the_cursor(tmp_path, updates):
    rank = FakeRank(config(updates=3), tmp_path)
    rank.cursor, rank.version = Cursor("ppo", update=2), 2
    made, collector, _ = phase(rank)
    made.run()
    assert [(number, version) for _, number, _, version in updates] == [(2, 2)]
    groups = rank.cfg.ppo.episodes // rank.cfg.ppo.group_size
    assert collector.begun == (3, 2 * groups)


def test_a_resume_plays_no_group_again_that_was_trained_on(tmp_path, updates):
    """Where episodes failed, others were played in their place: the checkpoint has the number."""
    cfg = config(updates=4)
    rank = FakeRank(replace(cfg, learner=replace(cfg.learner, checkpoint_every=2)), tmp_path)
    rank.checkpoint = lambda engine, cursor: kept.append(cursor)
    kept = []
    phase(rank)[0].run()
    assert kept == [Cursor("ppo", update=2, group=102), Cursor("ppo", update=4, group=104)]
    again = FakeRank(cfg, tmp_path)
    again.cursor, again.version = kept[0], 2
    made, collector, _ = phase(again)
    made.run()
    assert collector.begun == (3, 102)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("estimator", "value"), [("gae", True), ("grpo", False)])
def test_it_begins_from_sft_if_there_was_any(tmp_path, updates, trained, estimator, value):
    cfg = config(updates=1, estimator=estimator, kl_coef=0.1, critic_warmup=1)
    rank = FakeRank(cfg, tmp_path)
    if trained:
        (tmp_path / "sft").mkdir()
    phase(rank)[0].run()
    start = str(tmp_path / "sft") if trained else "initial"
    steps = ppo_steps(cfg.ppo), value, critic_steps(cfg.ppo)
    assert rank.opened == [(start, *steps), ("reference", start)]
    assert steps[2] == (6 if value else 0)
    assert rank.optimizers == [cfg.ppo.optimizer]
    assert updates[0][2] == "reference"
    assert rank.done[-1] == "close with reference"  # before another phase begins


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
    assert rank.done[-5:-2] == ["checkpoint", "export ppo", "evaluate ppo"]
    assert evaluation.runs == [("ppo", 2, 0), ("ppo", 0, 0)]
    learned = ["take", "sleep", "learn", "evaluated", "send"]
    assert rank.done[14:21] == ["evaluate ppo", "keep best", *learned], "nobody waits for it"
    assert rank.done.count("checkpoint") == 1, "the state before it is kept"


@pytest.mark.parametrize("at_once", [True, False])
def test_a_checkpoint_follows_an_evaluation_that_is_not_beside_learning(tmp_path, updates, at_once):
    cfg = config(updates=4)
    learner = replace(cfg.learner, checkpoint_every=2)
    rank = FakeRank(replace(cfg, learner=learner, eval=replace(cfg.eval, every=2)), tmp_path)
    made, collector, evaluation = phase(rank)
    evaluation.at_once = at_once
    made.run()
    assert collector.forgotten == at_once, "what engines did meanwhile is no play"
    checkpoint = ["checkpoint"] if at_once else []
    after = ["evaluate ppo", "keep best", *checkpoint, "take"]
    assert rank.done[14 : 14 + len(after)] == after
    assert rank.done.count("checkpoint") == (2 if at_once else 1)


@pytest.mark.parametrize("at_once", [True, False])
def test_an_evaluation_that_a_resume_owed_is_owed_once(tmp_path, updates, at_once):
    """Whoever stops before the next update is learned keeps that it was played."""
    rank = FakeRank(config(updates=4), tmp_path)
    rank.cursor = Cursor("ppo", update=2, group=8, unevaluated=True)
    made, collector, evaluation = phase(rank)
    evaluation.at_once = at_once

    def take(_):
        raise RunStopped("the run was asked to stop")

    collector.take = take
    with pytest.raises(RunStopped):
        made.run()
    assert rank.cursor == Cursor("ppo", update=2, group=8)


def test_a_run_that_stops_while_it_waits_is_saved_after_its_last_update(tmp_path, updates):
    rank = FakeRank(config(updates=4), tmp_path)
    made, collector, _ = phase(rank)

    def take(update, take=collector.take):
        if update == 3:
            raise RunStopped("the run was asked to stop")
        return take(update)

    collector.take = take
    with pytest.raises(RunStopped):
        made.run()
    assert rank.cursor == Cursor("ppo", update=2, group=102)
    assert rank.done[-1] == "checkpoint"
    again = FakeRank(config(updates=4), tmp_path)
    again.cursor, again.version = rank.cursor, 2
    made, collector, _ = phase(again)
    made.run()
    assert (collector.begun, collector.collected) == ((3, 102), [3, 4])


def test_all_updates_done_it_goes_on_with_export_and_evaluation(tmp_path, updates):
    rank = FakeRank(config(updates=2), tmp_path)
    rank.cursor, rank.version = Cursor("ppo", update=2), 2
    phase(rank)[0].run()
    assert updates == []
    assert rank.done[3:] == ["begin", "export ppo", "evaluate ppo", "keep best", "close"]


def test_an_engine_with_other_weights_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_phase, "ppo_update", lambda *_, **__: {"parity_mean_abs": 0.1})
    rank = FakeRank(config(updates=1), tmp_path)
    with pytest.raises(ParityError, match="PPO update 1: log-probabilities"):
        phase(rank)[0].run()
    assert rank.of("ppo") == []
    assert "send" not in rank.done, "no engine gets what was learned from it"
    assert rank.version == 0


@pytest.mark.parametrize(("staleness", "every"), [(0, 2), (1, 2), (1, 3)])
def test_whatever_action_it_dies_at_all_that_is_due_is_recorded_once(
    tmp_path, updates, staleness, every
):
    """Also where an evaluation and a checkpoint are due after the same update."""
    cfg = config(updates=6, max_staleness=staleness)
    learner, evaluation = replace(cfg.learner, checkpoint_every=every), replace(cfg.eval, every=2)
    cfg = replace(cfg, learner=learner, eval=evaluation)

    def begin(disk, crash):
        disk.setdefault("cursor", Cursor("ppo"))
        rank = CrashingRank(cfg, tmp_path, disk, crash)
        made = FakePublisher(rank), FakeCollector(rank), RecordedEvaluation(rank)
        if rank.cursor.phase == "ppo":
            PPOPhase(rank, *made).run()
        assert rank.cursor == Cursor("done", update=6)

    def recorded(records):
        return sorted((r["update"], r["kind"], r.get("variant", "")) for r in records)

    smooth = {}
    begin(smooth, None)
    wanted = recorded(smooth["records"])
    assert len(set(wanted)) == len(wanted)
    assert [w[0] for w in wanted if w[1] == "ppo"] == [1, 2, 3, 4, 5, 6]
    assert [w[0] for w in wanted if w[2] == "train"] == [0, 2, 4]
    crashed = after_every_crash(begin)
    assert len(crashed) > 40
    assert all(recorded(records) == wanted for records in crashed)


def test_the_state_is_saved_before_an_evaluation_which_a_resume_plays_first(tmp_path, updates):
    cfg = config(updates=3, max_staleness=1)
    cfg = replace(cfg, eval=replace(cfg.eval, every=2))
    rank, saved = FakeRank(cfg, tmp_path), []

    def save(engine, cursor):
        rank.done.append("save")
        saved.append(cursor)

    rank.checkpoint_before_evaluation = save
    phase(rank)[0].run()
    assert rank.done[8:15] == ["take", "sleep", "learn", "arrived", "send", "save", "arrived"]
    assert rank.done[15] == "evaluate ppo"
    assert saved == [Cursor("ppo", update=2, group=102)]
    again = FakeRank(cfg, tmp_path)
    again.cursor, again.version = replace(saved[0], unevaluated=True), 2
    made, _, evaluation = phase(again)
    made.run()
    assert again.done[2:6] == ["publish", "begin", "evaluate ppo", "keep best"]
    assert evaluation.runs == [("ppo", 2, 0), ("ppo", 0, 0)]
