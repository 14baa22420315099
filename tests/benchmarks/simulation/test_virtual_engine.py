"""An engine with continuous batching against times that were computed by hand."""

import math

import pytest

from benchmarks.simulation.costs import EngineCosts
from benchmarks.simulation.virtual_engine import VirtualEngine

COSTS = EngineCosts(step_s=0.01, sequence_s=0.002, request_s=0.1, prompt_token_s=0.001)


def ended(engine):
    """Run to the next end; its time."""
    now = engine.next_end()
    engine.advance(now)
    engine.end_next()()
    return now


def add(engine, name, finish, prompt=50, answer=20):
    engine.add(prompt, prompt, answer, lambda: finish.append(name))


def test_one_sequence_alone():
    engine, finish = VirtualEngine(COSTS), []
    add(engine, "a", finish)
    # a request of 0.1 s, 50 prompt tokens of 1 ms, 20 steps of 12 ms
    assert ended(engine) == pytest.approx(0.1 + 0.05 + 20 * 0.012)
    assert finish == ["a"]
    assert engine.next_end() == math.inf


def test_sequences_share_each_step_and_wait_for_all_prompts():
    engine, finish = VirtualEngine(COSTS), []
    for name in "abc":
        add(engine, name, finish)
    times = [ended(engine) for _ in "abc"]
    assert times == pytest.approx([3 * 0.15 + 20 * (0.01 + 3 * 0.002)] * 3)
    assert finish == ["a", "b", "c"]


def test_one_that_comes_later_stops_the_others_for_its_prompt_and_slows_them_after():
    engine, finish = VirtualEngine(COSTS), []
    add(engine, "a", finish)
    engine.advance(0.15 + 10 * 0.012)  # half of its answer
    add(engine, "b", finish)
    first = 0.15 + 10 * 0.012 + 0.15 + 10 * 0.014
    assert ended(engine) == pytest.approx(first)
    assert ended(engine) == pytest.approx(first + 10 * 0.012)


def test_nothing_advances_in_a_pause():
    engine, finish = VirtualEngine(COSTS), []
    add(engine, "a", finish)
    engine.advance(0.2)
    engine.pause(True)
    assert engine.next_end() == math.inf
    assert not engine.busy
    engine.advance(5.0)
    engine.pause(False)
    assert ended(engine) == pytest.approx(0.15 + 20 * 0.012 + 4.8)


def test_a_change_makes_earlier_events_void():
    engine = VirtualEngine(COSTS)
    seen = {engine.changes}
    engine.add(1, 1, 5, lambda: None)
    seen.add(engine.changes)
    engine.pause(True)
    seen.add(engine.changes)
    engine.pause(False)
    seen.add(engine.changes)
    engine.end_next()
    seen.add(engine.changes)
    assert len(seen) == 5


def test_reading_weights_and_context_or_computing_whichever_takes_longer():
    costs = EngineCosts(step_s=1.0, weights_s=10.0, context_s=0.1, compute_s=2.0)
    assert costs.decode_s(3, 50.0) == pytest.approx(1 + 10 + 5)
    assert costs.decode_s(9, 50.0) == pytest.approx(1 + 18)
    engine = VirtualEngine(EngineCosts(weights_s=1.0, context_s=0.01))
    engine.add(100, 100, 20, lambda: None)  # its context is 100 to 120 tokens, 110 on average
    assert engine.next_end() == pytest.approx(20 * (1 + 1.1))
