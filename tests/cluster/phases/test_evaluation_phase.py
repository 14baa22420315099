"""An evaluation within a run: rank 0 plays and records, all ranks compare on the first variant."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.failures import ParityError, RunFailure, RunStopped
from cluster.phases import evaluation_phase
from cluster.phases.evaluate import Evaluation
from cluster.phases.evaluation_phase import EvaluationPhase
from cluster.run.tracing import record_spans
from report.metrics import is_incident
from report.spans import read_spans
from report.trace import WAITS
from tests.cluster.fakes import FakeCollector, FakeRank
from tests.support.learner import config

AFTER_2, AFTER_3 = Cursor("ppo", update=2, group=8), Cursor("ppo", update=3, group=12)


class Log:
    def __init__(self):
        self.episodes, self.rows = [], []

    def episode(self, record):
        self.episodes.append(record)

    def outcomes(self, rows):
        self.rows += rows


class FakeStartKL:
    def __init__(self, folder, cfg, rank):
        self.folder, self.rank, self.kept = folder, rank, []

    def keep(self, trajectories):
        self.kept.append(trajectories)

    def kl(self, engine):
        return 0.25


@pytest.fixture
def made(monkeypatch, tmp_path):
    """make(number, parity, …) gives a rank and its evaluations of two variants."""

    def make(number=0, parity=1e-6, max_staleness=0, layout="disaggregated", **changed):
        cfg = config(max_staleness=max_staleness)
        cfg = replace(cfg, cluster=replace(cfg.cluster, layout=layout))
        variants = {"train": {}, "other": {}}
        cfg = replace(cfg, eval=replace(cfg.eval, variants=variants, **changed))
        rank = FakeRank(cfg, tmp_path, number)
        rank.log = Log() if number == 0 else None
        rank.job.buffer, rank.renderer, rank.version = "buffer", "renderer", 5

        def evaluate(cfg, buffer, renderer, stage, variant):
            rank.done.append((buffer, renderer, stage, variant))
            record = {"stage": stage, "variant": variant, "success": 0.5}
            return Evaluation(record, [{"seed": 1}], [{"seed": 2}])

        def compare(engine, trajectories, cfg, version):
            rank.done.append((engine, trajectories, version))
            return {"parity_mean_abs": parity}

        monkeypatch.setattr(evaluation_phase, "evaluate", evaluate)
        monkeypatch.setattr(evaluation_phase, "parity", compare)
        monkeypatch.setattr(evaluation_phase, "StartKL", FakeStartKL)
        return rank, EvaluationPhase(rank, FakeCollector(rank))

    return make


def test_every_variant_has_a_record_and_the_first_one_parity(made):
    rank, evaluation = made()
    evaluation.run("engine", "sft", Cursor("sft", step=3))
    assert rank.done == [
        ("buffer", "renderer", "sft", "train"),
        ("engine", ["a", "b"], 5),
        ("buffer", "renderer", "sft", "other"),
    ]
    first, second = rank.of("eval")
    assert first == {
        "kind": "eval",
        "update": 0,
        "step": 0,
        "stage": "sft",
        "variant": "train",
        "success": 0.5,
        "parity_mean_abs": 1e-6,
        "kl_start": 0.25,
    }
    assert (second["variant"], second["kl_start"]) == ("other", 0.25)
    assert "parity_mean_abs" not in second
    assert rank.log.episodes == [{"seed": 1, "update": 0, "step": 0}] * 2
    assert rank.log.rows == [{"seed": 2, "update": 0, "step": 0}] * 2


@pytest.mark.parametrize("beside", [False, True])
def test_the_buffer_keeps_no_episodes_of_an_evaluation_that_has_ended(made, beside):
    rank, evaluation = made(max_staleness=int(beside))
    collector = evaluation._collector
    collector.release = lambda: rank.done.append("release")
    evaluation.begin("engine", AFTER_2)
    evaluation.finish(AFTER_2)
    assert rank.done.count("release") == 1
    assert rank.done[-2:] == [("buffer", "renderer", "ppo", "other"), "release"]


def test_other_ranks_score_their_share_and_play_nothing(made):
    rank, evaluation = made(number=1)
    evaluation.run("engine", "ppo", AFTER_2)
    assert rank.done == [("engine", ["a", "b"], 5)]


@pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"sampled_questions": 0}])
def test_without_samples_at_the_temperature_of_play_nothing_is_compared(made, changed):
    rank, evaluation = made(**changed)
    evaluation.run("engine", "start", Cursor())
    assert all(len(what) == 4 for what in rank.done)
    assert [record["kl_start"] for record in rank.of("eval")] == [None, None]
    assert evaluation._start_kl.kept == []


@pytest.mark.parametrize(
    ("stage", "start", "kept"), [("start", None, 1), ("sft", None, 0), ("start", "elsewhere", 0)]
)
def test_a_run_keeps_its_own_start_once(made, stage, start, kept):
    rank, evaluation = made(start=start)
    evaluation.run("engine", stage, Cursor())
    assert evaluation._start_kl.kept == [["a", "b"]] * kept
    assert str(evaluation._start_kl.folder) == (start or rank.job.folder)


def test_an_engine_with_other_weights_ends_the_run(made):
    _, evaluation = made(parity=0.1)
    with pytest.raises(ParityError, match="evaluation ppo: log-probabilities"):
        evaluation.run("engine", "ppo", AFTER_2)


def test_an_evaluation_beside_learning_is_recorded_when_it_has_ended(made, monkeypatch):
    """The learner goes on before anything is played; a probe of its weights is compared at once."""
    rank, evaluation = made(max_staleness=1)
    played, at_once = threading.Event(), evaluation_phase.evaluate

    def slow(*args):
        assert played.wait(120)
        return at_once(*args)

    monkeypatch.setattr(evaluation_phase, "evaluate", slow)
    evaluation.begin("engine", AFTER_2)
    assert rank.done == ["play", ("engine", ["a", "b"], 5)]
    requests = evaluation._collector.collected[0]
    assert [request.id for request in requests][:1] == ["proof/ppo 2/000000"]
    assert rank.of("eval") == []
    played.set()
    assert evaluation.finish(AFTER_3) == AFTER_3
    first, second = rank.of("eval")
    assert (first["variant"], first["update"], first["step"]) == ("train", 2, 0)
    assert (first["parity_mean_abs"], first["kl_start"]) == (1e-6, 0.25)
    assert (second["variant"], second["kl_start"]) == ("other", 0.25)
    assert "parity_mean_abs" not in second
    assert rank.log.rows == [{"seed": 2, "update": 2, "step": 0}] * 2
    assert evaluation.finish(AFTER_3) == AFTER_3
    assert len(rank.of("eval")) == 2


def test_what_the_learner_waits_for_is_counted_and_shown_as_a_wait(made, monkeypatch, tmp_path):
    """The episodes of the proof and the end of the evaluation; not what is scored of them."""
    clock = [0.0]
    monkeypatch.setattr(evaluation_phase.time, "monotonic", lambda: clock[0])

    def taking(seconds, result):
        def call(*_):
            clock[0] += seconds
            return result

        return call

    _, evaluation = made(number=1, max_staleness=1)
    record_spans(tmp_path, "learner rank 1")
    evaluation._collector.collect = taking(2.0, None)
    monkeypatch.setattr(evaluation_phase, "parity", taking(16.0, {}))
    evaluation.begin("engine", AFTER_2)
    assert (evaluation.pop_waited(), evaluation.pop_waited()) == (2.0, 0.0)
    monkeypatch.setattr(evaluation_phase.distributed, "barrier", taking(4.0, None))
    evaluation.finish(AFTER_3)
    assert (evaluation.pop_waited(), evaluation.pop_waited()) == (4.0, 0.0)
    evaluation.begin("engine", replace(AFTER_2, update=4))
    evaluation.finish(AFTER_3)
    assert evaluation.pop_waited() == 2.0 + 4.0
    evaluation.run("engine", "ppo", AFTER_3)
    assert evaluation.pop_waited() == 0.0, "an evaluation for which nothing else is done"
    waits = [span.name for span in read_spans(tmp_path).spans if span.name in WAITS]
    assert waits == ["wait for the proof", "wait for the evaluation"] * 2


@pytest.mark.parametrize(
    ("stage", "staleness", "layout", "beside"),
    [
        ("ppo", 0, "disaggregated", False),
        ("ppo", 1, "disaggregated", True),
        ("sft", 0, "disaggregated", True),
        ("sft", 0, "colocated", False),
        ("ppo", 1, "colocated", False),
    ],
)
def test_what_must_wait_for_an_evaluation_waits(made, stage, staleness, layout, beside):
    """Synchronous play; and engines that give their GPU to the learner."""
    rank, evaluation = made(max_staleness=staleness, layout=layout)
    assert evaluation.begin("engine", replace(AFTER_2, phase=stage)) == beside
    assert (len(rank.of("eval")) == 2) != beside
    evaluation.finish(AFTER_2)
    assert len(rank.of("eval")) == 2


def test_the_best_model_is_kept_before_the_learner_trains_on(made):
    rank, evaluation = made(max_staleness=1)
    rank.cfg = replace(rank.cfg, learner=replace(rank.cfg.learner, keep_best="train/success"))
    evaluation.begin("engine", AFTER_2)
    assert len(rank.of("eval")) == 2


def test_a_failure_beside_learning_ends_the_wait(made, monkeypatch):
    def fail(*_):
        raise RunFailure("every evaluated episode failed")

    _, evaluation = made(max_staleness=1)
    monkeypatch.setattr(evaluation_phase, "evaluate", fail)
    evaluation.begin("engine", AFTER_2)
    with pytest.raises(RunFailure, match="every evaluated"):
        evaluation.finish(AFTER_2)


def test_one_evaluation_begins_after_the_other_is_recorded(made):
    rank, evaluation = made(max_staleness=1)
    evaluation.begin("engine", AFTER_2)
    with pytest.raises(AssertionError, match="before the end of another"):
        evaluation.begin("engine", AFTER_3)
    evaluation.finish(AFTER_3)
    evaluation.begin("engine", AFTER_3)
    evaluation.finish(AFTER_3)
    evaluation.run("engine", "ppo", AFTER_3)
    assert [record["update"] for record in rank.of("eval")] == [2, 2, 3, 3, 0, 0]


def test_other_ranks_wait_for_it_and_play_nothing(made):
    rank, evaluation = made(number=1, max_staleness=1)
    evaluation.begin("engine", AFTER_2)
    assert rank.done == ["play", ("engine", ["a", "b"], 5)]
    evaluation.finish(AFTER_2)
    assert rank.of("eval") == []


def test_other_weights_in_the_engine_end_the_run_before_it_is_played(made):
    rank, evaluation = made(parity=0.1, max_staleness=1)
    with pytest.raises(ParityError, match="evaluation ppo: log-probabilities"):
        evaluation.begin("engine", AFTER_2)
    assert all(what[0] != "buffer" for what in rank.done)


def test_on_recorded_blocks_nothing_is_evaluated(made):
    rank, evaluation = made()
    rank.cfg = replace(rank.cfg, ppo=replace(rank.cfg.ppo, blocks="x"))
    evaluation.run("engine", "ppo", AFTER_3)
    evaluation.begin("engine", AFTER_3)
    assert (rank.done, rank.records) == ([], [])


def stopped(*_):
    raise RunStopped("the run was asked to stop")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("beside", [False, True])
def test_where_the_run_is_to_stop_all_ranks_save_together(made, monkeypatch, number, beside):
    """At the end of a phase, and on the way: then the evaluation is still due."""
    rank, evaluation = made(number=number, max_staleness=int(beside))
    asked = []

    def all_max(values):
        asked.append([bool(value) for value in values])
        return [1.0]  # rank 0 was stopped

    if number == 0:
        monkeypatch.setattr(evaluation_phase, "evaluate", stopped)
        evaluation._collector.collect = stopped
    monkeypatch.setattr(evaluation_phase.distributed, "all_max", all_max)
    with pytest.raises(RunStopped):
        evaluation.run("engine", "ppo", AFTER_2)
    assert (rank.done[-1], rank.cursor) == ("checkpoint", AFTER_2)
    with pytest.raises(RunStopped):
        evaluation.begin("engine", AFTER_3)
    assert (rank.done[-1], rank.cursor) == ("checkpoint", replace(AFTER_3, unevaluated=True))
    assert asked == [[number == 0]] * 2
    assert evaluation.finish(AFTER_3) == AFTER_3, "none is under way"


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_is_cut_short_is_still_due_of_its_own_state_alone(made, monkeypatch, number):
    """Of an earlier one the records say that it is not played; all ranks save the same."""
    rank, evaluation = made(number=number, max_staleness=1)
    monkeypatch.setattr(evaluation_phase, "evaluate", stopped)
    evaluation.begin("engine", AFTER_2)
    monkeypatch.setattr(evaluation_phase.distributed, "all_max", lambda values: [1.0])
    assert evaluation.finish(AFTER_2) == replace(AFTER_2, unevaluated=True)
    assert rank.records == []


def test_one_that_was_owed_is_due_no_more_once_it_is_recorded(made):
    """Else a stop before the next update throws it away, and each resume plays it again."""
    rank, evaluation = made(max_staleness=1)
    owed = replace(AFTER_2, unevaluated=True)
    evaluation.begin("engine", owed)
    assert evaluation.finish(owed) == AFTER_2
    assert len(rank.of("eval")) == 2


@pytest.mark.parametrize("number", [0, 1])
def test_one_that_what_was_learned_since_outlives_is_an_incident(made, monkeypatch, number):
    rank, evaluation = made(number=number, max_staleness=1)
    monkeypatch.setattr(evaluation_phase, "evaluate", stopped)
    evaluation.begin("engine", AFTER_2)
    monkeypatch.setattr(evaluation_phase.distributed, "all_max", lambda values: [1.0])
    assert evaluation.finish(AFTER_3) == AFTER_3
    (record,) = rank.records
    assert is_incident(record)
    assert record["who"] == "evaluation"
    assert record["cause"] == (
        "that of PPO update 2 was cut short: the run was asked to stop, and a resume after "
        "PPO update 3 does not play it"
    )
    assert evaluation.finish(AFTER_3) == AFTER_3
    assert rank.records == [record]


@pytest.mark.parametrize("number", [0, 1])
def test_all_ranks_know_whether_it_is_played(made, monkeypatch, number):
    _, evaluation = made(number=number, max_staleness=1)
    assert not evaluation.playing()
    ended, at_once, asked = threading.Event(), evaluation_phase.evaluate, []

    def slow(*args):
        assert ended.wait(120)
        return at_once(*args)

    def all_max(values):
        asked.append([bool(value) for value in values])
        return [float(not ended.is_set())]

    monkeypatch.setattr(evaluation_phase, "evaluate", slow)
    evaluation.begin("engine", AFTER_2)
    monkeypatch.setattr(evaluation_phase.distributed, "all_max", all_max)
    assert evaluation.playing()
    ended.set()
    while number == 0 and not evaluation._under_way.played.done():
        threading.Event().wait(0.01)
    assert not evaluation.playing()
    assert asked == [[number == 0], [False]]
