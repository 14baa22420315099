"""The SFT phase: its order, its milestones, and no token lost or counted twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.phases import sft_phase
from cluster.phases.sft_phase import SFTPhase, log_due
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


def phase(rank, demonstrations=None):
    batches = iter(range(99)) if demonstrations is None else demonstrations
    made = FakePublisher(rank), FakeCollector(rank), FakeEvaluation(rank)
    return SFTPhase(rank, *made, batches), made[-1]


def configured(proof=False, updates=2, **sft):
    cfg = config(updates=updates)
    cluster = replace(cfg.cluster, weight_proof=proof)
    return replace(cfg, sft=replace(cfg.sft, **sft), cluster=cluster)


@pytest.fixture
def learned(monkeypatch):
    """(batch, reference) of each step; a step has ten tokens more than the last."""
    steps = []

    def step(engine, batch, cfg, reference):
        engine._done.append("learn")
        steps.append((batch, reference))
        return {"tokens": 10.0 * len(steps), "loss": 1.0, "tokens_per_second": -1.0}

    monkeypatch.setattr(sft_phase, "sft_step", step)
    return steps


def test_engines_sleep_before_every_piece_of_learning(tmp_path, learned):
    rank = FakeRank(configured(steps=1), tmp_path)
    phase(rank)[0].run()
    assert rank.done == [
        "sleep",
        "build",
        "publish",
        "evaluate start",
        "sleep",
        "learn",
        "publish",
        "export sft",
        "evaluate sft",
        "keep best",
        "close",
    ]
    assert rank.cursor == Cursor("ppo")
    assert rank.opened == [("initial", 1, False, 0)]


def test_it_begins_from_the_initial_model_with_a_schedule_of_its_steps(tmp_path, learned):
    rank = FakeRank(configured(steps=3), tmp_path)
    phase(rank)[0].run()
    assert rank.opened == [("initial", 3, False, 0)]
    assert rank.optimizers == [rank.cfg.sft.optimizer]


def test_the_proof_comes_before_the_first_evaluation(tmp_path, learned, monkeypatch):
    monkeypatch.setattr(sft_phase, "prove", lambda rank, *_: rank.done.append("prove"))
    rank = FakeRank(configured(proof=True, steps=1), tmp_path)
    phase(rank)[0].run()
    assert rank.done[2:5] == ["publish", "prove", "evaluate start"]


def test_a_resumed_phase_publishes_and_neither_proves_nor_starts_again(tmp_path, learned):
    rank = FakeRank(configured(proof=True, steps=5), tmp_path)
    rank.cursor = Cursor("sft", step=3)
    phase(rank)[0].run()
    assert rank.done[:4] == ["sleep", "build", "publish", "sleep"]
    assert rank.done.count("learn") == 2


def test_a_run_that_trains_nothing_evaluates_its_start_and_is_done(tmp_path):
    rank = FakeRank(configured(steps=0, updates=0), tmp_path)
    phase(rank, iter(()))[0].run()
    assert rank.done == ["sleep", "build", "publish", "evaluate start", "close"]
    assert rank.opened == [("initial", 1, False, 0)]
    assert rank.cursor == Cursor("done")


@pytest.mark.parametrize(("loss", "reference"), [("ce_kl", "reference"), ("ce", None)])
def test_the_initial_model_is_the_reference_of_a_loss_that_needs_one(
    tmp_path, learned, loss, reference
):
    rank = FakeRank(configured(steps=1, loss=loss), tmp_path)
    phase(rank)[0].run()
    assert learned == [(0, reference)]
    assert (("reference", "initial") in rank.opened) == (reference is not None)
    assert rank.done[-1] == ("close with reference" if reference else "close")


def test_models_are_kept_evaluated_and_checkpointed_on_the_way(tmp_path, learned):
    cfg = configured(steps=6, eval_every=3, keep=[3, 4])
    cfg = replace(cfg, learner=replace(cfg.learner, checkpoint_every=3))
    rank = FakeRank(cfg, tmp_path)
    made, evaluation = phase(rank)
    made.run()
    assert rank.done[4:] == [
        "sleep",
        *["learn"] * 3,
        "export sft-3",
        "publish",
        "evaluate sft",
        "keep best",
        "sleep",
        "learn",
        "export sft-4",
        "learn",
        "learn",
        "evaluated",
        "publish",
        "export sft",
        "evaluate sft",
        "keep best",
        "close",
    ]
    assert evaluation.runs == [("start", 0, 0), ("sft", 0, 3), ("sft", 0, 0)]


def test_a_record_has_the_tokens_since_the_last_one(tmp_path, learned):
    rank = FakeRank(configured(steps=5, log_every=2, batch_size=6), tmp_path)
    phase(rank)[0].run()
    records = rank.of("sft")
    assert [(r["step"], r["steps"], r["tokens_trained"]) for r in records] == [
        (2, 5, 10 + 20),
        (4, 5, 30 + 40),
        (5, 5, 50),
    ]
    assert {r["dropped"] for r in records} == {3}
    # Of 16 demonstrations, 6 a step.
    assert [(r["demonstrations"], r["epoch"]) for r in records] == [
        (16, 12 / 16),
        (16, 24 / 16),
        (16, 30 / 16),
    ]
    assert all(r["tokens_per_second"] > 0 for r in records)


def test_demonstrations_of_the_run_that_is_continued_count(tmp_path, learned):
    rank = FakeRank(configured(steps=1, batch_size=6, skip=20), tmp_path)
    phase(rank)[0].run()
    assert [r["epoch"] for r in rank.of("sft")] == [26 / 16]


@pytest.mark.parametrize(
    ("step", "due"),
    [(1, False), (5, True), (6, False), (8, True), (11, True), (19, False), (20, True)],
)
def test_when_a_record_is_due(step, due):
    cfg = configured(steps=20, log_every=8, eval_every=5, keep=[11])
    assert log_due(cfg, step) == due


def test_a_record_ends_where_a_checkpoint_is_due(tmp_path, learned):
    """So that a resume has counted all tokens before it, and none after it."""
    rank = FakeRank(configured(steps=5, log_every=5), tmp_path)
    rank.checkpoint_due = lambda step: step == 3
    rank.checkpoint = lambda engine, cursor: kept.append((cursor, rank.of("sft")[-1]["step"]))
    kept = []
    phase(rank)[0].run()
    assert kept == [(Cursor("sft", step=3), 3)]
    assert [r["tokens_trained"] for r in rank.of("sft")] == [10 + 20 + 30, 40 + 50]


def test_no_token_of_sft_is_lost_or_counted_twice_over_a_resume(tmp_path, monkeypatch):
    cfg = configured(steps=20, log_every=8, eval_every=5, keep=[11])
    rank = FakeRank(replace(cfg, learner=replace(cfg.learner, checkpoint_every=6)), tmp_path)
    trained = []

    class Counted(FakeEvaluation):
        at_once = True

        def _play(self, stage, update, step):
            if stage == "sft":
                count = sum(r["tokens_trained"] for r in rank.of("sft"))
                assert count == sum(trained[: step or 20])

    def step(*_):
        trained.append(len(trained) + 1)  # other tokens each step
        if interrupt and len(trained) == 14:  # after the checkpoint of step 12
            raise KeyboardInterrupt
        return {"tokens": float(trained[-1])}

    def begin():
        made = FakePublisher(rank), FakeCollector(rank), Counted(rank)
        SFTPhase(rank, *made, iter(range(99))).run()

    monkeypatch.setattr(sft_phase, "sft_step", step)
    interrupt = True
    with pytest.raises(KeyboardInterrupt):
        begin()
    assert rank.cursor.step == 12
    rank.records[:] = [r for r in rank.records if rank.cursor.covers(r)]
    del trained[12:]
    interrupt = False
    begin()
    assert len(trained) == 20
    assert sum(r["tokens_trained"] for r in rank.of("sft")) == sum(trained)


def test_a_checkpoint_follows_an_evaluation_that_is_not_beside_learning(tmp_path, learned):
    cfg = configured(steps=6, eval_every=3)
    rank = FakeRank(replace(cfg, learner=replace(cfg.learner, checkpoint_every=3)), tmp_path)
    made, evaluation = phase(rank)
    evaluation.at_once = True
    made.run()
    begin = rank.done.index("checkpoint")
    assert rank.done[begin - 1 : begin + 2] == ["sleep", "checkpoint", "learn"]
    assert rank.done.count("checkpoint") == 2


@pytest.mark.parametrize("ended", [True, False])
def test_a_checkpoint_does_not_wait_for_an_evaluation_beside_learning(tmp_path, learned, ended):
    """The state before the evaluation stands, until that has ended; nor is a record cut."""
    cfg = configured(steps=6, eval_every=2)
    rank = FakeRank(replace(cfg, learner=replace(cfg.learner, checkpoint_every=3)), tmp_path)
    made, evaluation = phase(rank)
    if ended:
        evaluation.playing = lambda: False
    made.run()
    third = rank.done.index("learn", rank.done.index("evaluate sft")) + 1
    after = ["evaluated", "checkpoint", "learn"] if ended else ["learn", "evaluated"]
    assert rank.done[third : third + len(after)] == after
    assert [r["step"] for r in rank.of("sft")] == ([2, 3, 4, 6] if ended else [2, 4, 6])


def test_time_spent_on_models_along_the_way_is_not_trainings(tmp_path, learned, monkeypatch):
    clock = [0.0]

    class Slow(FakeEvaluation):
        def _play(self, stage, update, step):
            clock[0] += 1000.0

        def finish(self, cursor):
            clock[0] += 500.0 if self._under_way else 0.0
            return super().finish(cursor)

        def playing(self):
            return False

    class Batches:
        def __next__(self):
            clock[0] += 2.0  # seconds a step

    monkeypatch.setattr(sft_phase.time, "monotonic", lambda: clock[0])
    cfg = configured(steps=5, eval_every=2)
    rank = FakeRank(replace(cfg, learner=replace(cfg.learner, checkpoint_every=3)), tmp_path)
    made = FakePublisher(rank), FakeCollector(rank), Slow(rank)
    SFTPhase(rank, *made, Batches()).run()
    rates = [r["tokens_per_second"] for r in rank.of("sft")]
    assert rates == [(10 + 20) / 4.0, 30 / 2.0, 40 / 2.0, 50 / 2.0]


def test_the_learner_trains_on_while_it_is_evaluated_and_publishes_nothing(tmp_path, learned):
    rank = FakeRank(configured(steps=5, eval_every=2), tmp_path)
    phase(rank)[0].run()
    assert rank.done[5:] == [
        *["learn", "learn", "publish", "evaluate sft", "keep best", "sleep"],
        *["learn", "learn", "evaluated", "publish", "evaluate sft", "keep best", "sleep"],
        *["learn", "evaluated", "publish", "export sft", "evaluate sft", "keep best", "close"],
    ]


@pytest.mark.parametrize(("every", "ended"), [(2, False), (3, False), (3, True)])
def test_whatever_action_it_dies_at_all_that_is_due_is_recorded_once(
    tmp_path, monkeypatch, every, ended
):
    cfg = configured(steps=6, eval_every=2, log_every=3, keep=[5])
    cfg = replace(cfg, learner=replace(cfg.learner, checkpoint_every=every))

    def begin(disk, crash):
        rank = CrashingRank(cfg, tmp_path, disk, crash)

        def step(*_):
            rank.done.append("learn")
            return {"tokens": 1.0}

        monkeypatch.setattr(sft_phase, "sft_step", step)
        evaluation = RecordedEvaluation(rank)
        if ended:
            evaluation.playing = lambda: False
        made = FakePublisher(rank), FakeCollector(rank), evaluation
        if rank.cursor.phase == "sft":
            SFTPhase(rank, *made, iter(range(99))).run()
        assert rank.cursor == Cursor("ppo")

    def recorded(records):
        return [
            (r["kind"], r["step"], r.get("stage"), r.get("variant"), r.get("tokens_trained"))
            for r in records
        ]

    smooth = {}
    begin(smooth, None)
    wanted = recorded(smooth["records"])
    assert len(set(wanted)) == len(wanted)
    assert [w[1] for w in wanted if w[0] == "sft"] == [2, 3, 4, 5, 6]
    assert [w[1:4] for w in wanted if w[0] == "eval" and w[3] == "train"] == [
        (0, "start", "train"),
        (2, "sft", "train"),
        (4, "sft", "train"),
        (0, "sft", "train"),
    ]
    crashed = after_every_crash(begin)
    assert len(crashed) > 30
    # An evaluation that a resume plays is recorded while training goes on.
    assert all(sorted(recorded(found), key=str) == sorted(wanted, key=str) for found in crashed)


def test_the_state_is_saved_before_an_evaluation_which_a_resume_plays_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sft_phase, "sft_step", lambda *_: {"tokens": 1.0})
    cfg = configured(steps=4, eval_every=3)
    rank, saved = FakeRank(cfg, tmp_path), []

    def save(engine, cursor):
        rank.done.append("save")
        saved.append(cursor)

    rank.checkpoint_before_evaluation = save
    made = FakePublisher(rank), FakeCollector(rank), FakeEvaluation(rank)
    SFTPhase(rank, *made, iter(range(99))).run()
    index = rank.done.index("save")
    assert rank.done[index : index + 3] == ["save", "publish", "evaluate sft"]
    assert saved == [Cursor("sft", step=3)]
    again = FakeRank(cfg, tmp_path)
    again.cursor = replace(saved[0], unevaluated=True)
    evaluation = FakeEvaluation(again)
    SFTPhase(again, FakePublisher(again), FakeCollector(again), evaluation, iter(range(99))).run()
    assert evaluation.runs == [("sft", 0, 3), ("sft", 0, 0)]
