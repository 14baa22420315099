"""A stop at any moment of a phase: what was learned is saved, and no evaluation is lost in silence.

The evaluations are real, so that they end as those of a run do; what they play is not.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from cluster.checkpoints.cursor import Cursor
from cluster.failures import RunStopped
from cluster.phases import evaluation_phase, ppo_phase, sft_phase
from cluster.phases.evaluate import Evaluation
from cluster.phases.evaluation_phase import EvaluationPhase
from cluster.phases.ppo_phase import PPOPhase
from cluster.phases.sft_phase import SFTPhase
from report.metrics import is_incident
from tests.cluster.fakes import FakeCollector, FakePublisher, FakeRank
from tests.support.learner import config


class StoppedRank(FakeRank):
    """One that is asked to stop while it learns a step or an update, and sees it at a later one."""

    def __init__(self, cfg, folder):
        super().__init__(cfg, folder)
        self.job.buffer = self.renderer = None
        self.stopped, self.log = threading.Event(), self

    def learn(self, number):
        if number == self.stops:
            self.stopped.set()

    def refuse(self):
        """What everybody who waits for episodes does."""
        if self.stopped.is_set():
            raise RunStopped("the run was asked to stop")

    def open_engine(self, *arguments, **options):
        engine = super().open_engine(*arguments, **options)
        engine.rank = self
        return engine

    def checkpoint_due(self, number):
        self.stopping = self.stopped.is_set() and number >= self.seen
        return self.stopping or super().checkpoint_due(number)

    def episode(self, record):
        pass

    def outcomes(self, rows):
        pass

    @property
    def incidents(self):
        return [record["cause"] for record in self.records if is_incident(record)]


class StoppedCollector(FakeCollector):
    def take(self, update):
        if update != self._rank.packed_ahead:
            self._rank.refuse()
        return super().take(update)

    def collect(self, requests):
        self._rank.refuse()


@pytest.fixture
def stopped(monkeypatch, tmp_path):
    """The rank of a phase that was stopped: its configuration, phase, step or update, and so on."""

    def step(engine, number, *_):
        engine.rank.learn(number)
        return {"tokens": 1.0}

    def update(engine, trajectories, cfg, number, *_):
        engine.rank.learn(number + 1)
        return {"action_tokens": 6.0, "tokens": 9.0}

    def stop(cfg, phase, stops, seen=99, packed_ahead=0):
        rank = StoppedRank(cfg, tmp_path)
        rank.stops, rank.seen, rank.packed_ahead = stops, seen, packed_ahead

        def evaluate(cfg, buffer, renderer, stage, variant):
            """It lasts until the run is stopped, but for that of the start."""
            if stage != "start":
                assert rank.stopped.wait(60)
                rank.refuse()
            return Evaluation({"stage": stage, "variant": variant}, [], [])

        monkeypatch.setattr(evaluation_phase, "evaluate", evaluate)
        collector = StoppedCollector(rank)
        made = FakePublisher(rank), collector, EvaluationPhase(rank, collector)
        begun = SFTPhase(rank, *made, iter(range(1, 99))) if phase == "sft" else None
        with pytest.raises(RunStopped):
            (begun or PPOPhase(rank, *made)).run()
        assert all(record["stage"] == "start" for record in rank.of("eval"))
        return rank

    monkeypatch.setattr(evaluation_phase, "parity", lambda *_: {"parity_mean_abs": 0.0})
    monkeypatch.setattr(evaluation_phase, "StartKL", NoStartKL)
    monkeypatch.setattr(sft_phase, "sft_step", step)
    monkeypatch.setattr(ppo_phase, "ppo_update", update)
    return stop


class NoStartKL:
    def __init__(self, *_):
        pass

    def keep(self, trajectories):
        pass

    def kl(self, engine):
        return None


def sft(scored=True):
    """Six steps, evaluated after 2 and 4."""
    cfg = config()
    cfg = replace(cfg, sft=replace(cfg.sft, steps=6, eval_every=2))
    cfg = replace(cfg, cluster=replace(cfg.cluster, weight_proof=False))
    return replace(cfg, eval=replace(cfg.eval, sampled_questions=int(scored)))


def ppo(max_staleness=1, **learner):
    """Six updates, evaluated after 2 and 4."""
    cfg = config(updates=6, max_staleness=max_staleness)
    cfg = replace(cfg, learner=replace(cfg.learner, **learner))
    return replace(cfg, eval=replace(cfg.eval, every=2))


def not_played(what, after):
    return [
        f"that of {what} was cut short: the run was asked to stop, and a resume after {after} "
        "does not play it"
    ]


@pytest.mark.parametrize(
    ("stops", "seen", "saved", "lost"),
    [
        (3, 3, Cursor("sft", step=3), (2, 3)),
        (3, 4, Cursor("sft", step=4, unevaluated=True), (2, 4)),
        (3, 99, Cursor("sft", step=4, unevaluated=True), (2, 4)),
        (5, 5, Cursor("sft", step=5), (4, 5)),
        (5, 99, Cursor("sft", step=6), (4, 6)),
        (6, 6, Cursor("sft", step=6), (4, 6)),
    ],
)
def test_sft_keeps_all_steps_since_the_evaluation_that_is_cut_short(
    stopped, monkeypatch, stops, seen, saved, lost
):
    """Whether it is found at a step, at the next evaluation or at the end."""
    if lost[0] == 4:  # that of 2 has ended
        monkeypatch.setattr(EvaluationPhase, "begin", ended_of_2(EvaluationPhase.begin))
    rank = stopped(sft(), "sft", stops, seen)
    assert rank.cursor == saved
    assert rank.incidents == not_played(*(f"SFT step {step}" for step in lost))
    assert [r["step"] for r in rank.of("sft")][-1] == saved.step


def ended_of_2(begin):
    def begun(self, engine, cursor):
        return begin(self, engine, cursor) if cursor.step != 2 else False

    return begun


@pytest.mark.parametrize(("scored", "seen"), [(True, 2), (True, 99), (False, 2)])
def test_sft_that_has_learned_nothing_since_has_its_evaluation_played_by_the_resume(
    stopped, scored, seen
):
    """It is stopped before its first episode, or, where none is compared first, as it begins."""
    rank = stopped(sft(scored), "sft", 2, seen)
    assert (rank.cursor, rank.incidents) == (Cursor("sft", step=2, unevaluated=True), [])


@pytest.mark.parametrize(
    ("stops", "seen", "packed_ahead", "update"), [(3, 3, 0, 3), (3, 99, 0, 3), (3, 99, 4, 4)]
)
def test_ppo_keeps_the_update_that_was_learned_and_its_record(
    stopped, stops, seen, packed_ahead, update
):
    rank = stopped(ppo(), "ppo", stops, seen, packed_ahead)
    assert [record["update"] for record in rank.of("ppo")] == list(range(1, update + 1))
    unevaluated = update == 4
    saved = Cursor("ppo", update=update, group=100 + update, unevaluated=unevaluated)
    assert rank.cursor == saved
    assert rank.incidents == not_played("PPO update 2", "PPO update 3")


def test_ppo_that_waits_for_a_batch_has_its_evaluation_played_by_the_resume(stopped, monkeypatch):
    take = StoppedCollector.take

    def stop(self, update):
        self._rank.learn(update)
        return take(self, update)

    monkeypatch.setattr(StoppedCollector, "take", stop)
    rank = stopped(ppo(), "ppo", 3)
    assert (rank.cursor, rank.incidents) == (
        Cursor("ppo", update=2, group=102, unevaluated=True),
        [],
    )


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_where_no_state_is_saved_before_an_evaluation_it_is_when_that_is_cut_short(
    stopped, max_staleness
):
    """As of all checkpoints that are turned off: the fake rank makes none."""
    rank = stopped(ppo(max_staleness), "ppo", 2)
    assert rank.cursor == Cursor("ppo", update=2, group=102, unevaluated=True)
    assert rank.incidents == []


def test_the_end_of_a_phase_is_saved_where_its_evaluation_is_cut_short(stopped):
    cfg = ppo()
    rank = stopped(replace(cfg, eval=replace(cfg.eval, every=0)), "ppo", 6, packed_ahead=0)
    assert rank.done[-1] == "checkpoint"
    assert (rank.cursor, rank.incidents) == (Cursor("ppo", update=6, group=106), [])
