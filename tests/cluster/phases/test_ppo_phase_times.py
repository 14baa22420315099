"""The seconds of the PPO phase: which are waits, of what, and which are work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from opentelemetry import trace

from cluster.phases import ppo_phase
from cluster.phases.ppo_phase import PPOPhase
from cluster.run.tracing import record_spans
from cluster.stream.collect import Batch
from report.spans import read_spans
from tests.cluster.fakes import FakeCollector, FakeEvaluation, FakePublisher, FakeRank
from tests.support.learner import config

TRACER = trace.get_tracer("cardinal")


class Clock:
    """Time that passes only where a call takes some."""

    def __init__(self):
        self.now = 0.0

    def taking(self, seconds, method):
        def timed(*arguments, **options):
            self.now += seconds
            return method(*arguments, **options)

        return timed


@pytest.fixture
def clock(monkeypatch):
    """The clock of the phase and of its spans."""
    clock = Clock()
    monkeypatch.setattr(ppo_phase.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr("opentelemetry.sdk.trace.time_ns", lambda: int(clock.now * 1e9))
    return clock


@pytest.fixture(autouse=True)
def update(monkeypatch):
    """One of 9 tokens, that takes no time."""
    metrics = {"action_tokens": 6.0, "tokens": 9.0, "parity_mean_abs": 1e-6}
    monkeypatch.setattr(ppo_phase, "ppo_update", lambda *_, **__: metrics)


def run(rank, *others):
    """The phase of a rank, with a collector and an evaluation that take no time, or these."""
    publisher, collector, evaluation = others or (
        FakePublisher(rank),
        FakeCollector(rank),
        FakeEvaluation(rank),
    )
    PPOPhase(rank, publisher, collector, evaluation).run()


def test_a_learner_that_waits_for_engines_to_sleep_is_idle(tmp_path, clock, monkeypatch):
    sleep_engines = clock.taking(2.0, FakePublisher.sleep_engines)
    monkeypatch.setattr(FakePublisher, "sleep_engines", sleep_engines)
    monkeypatch.setattr(ppo_phase, "ppo_update", clock.taking(3.0, ppo_phase.ppo_update))
    rank = FakeRank(config(updates=1), tmp_path)
    run(rank)
    (record,) = rank.of("ppo")
    assert record["learner_idle"] == 2.0 / record["seconds"] == 2.0 / 5.0
    assert record["learn_seconds"] == 3.0


def test_a_record_has_the_seconds_of_its_update_by_phase(tmp_path, clock, monkeypatch):
    record_spans(tmp_path, "learner rank 0")
    with TRACER.start_as_current_span("take"):  # before the phase
        clock.now += 2.0

    @TRACER.start_as_current_span("take")
    def take(collector, update):
        clock.now += 0.25
        return Batch([], update, {})

    monkeypatch.setattr(FakeCollector, "take", take)
    monkeypatch.setattr(ppo_phase, "ppo_update", clock.taking(3.0, ppo_phase.ppo_update))
    rank = FakeRank(config(updates=2), tmp_path)
    run(rank)
    assert [record["phase_seconds"]["take"] for record in rank.of("ppo")] == [0.25, 0.25]
    spans = read_spans(tmp_path).spans
    assert [s.args for s in spans if s.name == "update"] == [{"update": 1}, {"update": 2}]


@pytest.mark.parametrize("bound", [0, 1])
def test_idle_are_the_seconds_in_which_batch_or_engines_are_waited_for(
    tmp_path, clock, monkeypatch, bound
):
    """Sending and writing are work. Where engines play ahead, weights are waited for later."""
    rank = FakeRank(config(updates=2, max_staleness=bound), tmp_path)
    publisher, collector = FakePublisher(rank), FakeCollector(rank)
    publisher.begin = clock.taking(0.5, publisher.begin)
    collector.take = clock.taking(2.0, collector.take)
    collector.write_batch = clock.taking(0.25, collector.write_batch)
    finish = publisher.finish
    publisher.finish = lambda: clock.taking(1.0, finish)() if publisher._sent else finish()
    monkeypatch.setattr(ppo_phase, "ppo_update", clock.taking(3.0, ppo_phase.ppo_update))
    run(rank, publisher, collector, FakeEvaluation(rank))
    first, last = rank.of("ppo")
    assert (last["learn_seconds"], last["learner_tokens_per_second"]) == (3.0, 9.0 / 3.0)
    assert (last["sync_seconds"], last["sync_waited_seconds"]) == (1.5, 1.0)
    assert (last["seconds"], last["learner_idle"]) == (6.75, (2.0 + 1.0) / 6.75)
    waited = 1.0 if bound == 0 else 0.0  # nothing had been sent before
    assert (first["sync_waited_seconds"], first["seconds"]) == (waited, 5.75 + waited)
    assert collector.written == [1, 2]


class SlowEvaluation(FakeEvaluation):
    """Begins in 2 s, of which it waits 1.5; its end is waited for 0.75 s."""

    def __init__(self, rank, clock):
        super().__init__(rank)
        self.clock = clock

    def begin(self, *arguments):
        self.clock.now += 2.0
        self.waited += 1.5
        return super().begin(*arguments)

    def finish(self, cursor):
        seconds = 0.75 if self._under_way else 0.0
        self.clock.now += seconds
        self.waited += seconds
        return super().finish(cursor)


@pytest.mark.parametrize("unevaluated", [False, True])
def test_waits_for_an_evaluation_beside_learning_are_idle_and_no_part_of_a_sync(
    tmp_path, clock, monkeypatch, unevaluated
):
    cfg = config(updates=3, max_staleness=1)
    rank = FakeRank(replace(cfg, eval=replace(cfg.eval, every=2)), tmp_path)
    rank.cursor = replace(rank.cursor, unevaluated=unevaluated)
    publisher, collector = FakePublisher(rank), FakeCollector(rank)
    evaluation = SlowEvaluation(rank, clock)
    evaluation.waited = 99.0  # in SFT
    publisher.begin = clock.taking(0.5, publisher.begin)
    collector.take = clock.taking(2.0, collector.take)
    monkeypatch.setattr(ppo_phase, "ppo_update", clock.taking(3.0, ppo_phase.ppo_update))
    run(rank, publisher, collector, evaluation)
    for record, due in zip(rank.of("ppo"), (unevaluated, False, True), strict=True):
        waited = 2.25 * due
        assert (record["sync_seconds"], record["sync_waited_seconds"]) == (0.5, 0.0)
        assert record["evaluation_waited_seconds"] == waited
        assert record["seconds"] == 5.5 + waited
        assert record["learner_idle"] == (2.0 + waited) / record["seconds"]
