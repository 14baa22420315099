"""An engine's load: sequences that run, seconds in which any does, pauses apart."""

from types import SimpleNamespace

import pytest

from rollout import engine_load
from rollout.engine_load import LoadRecorder


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(engine_load.time, "monotonic", lambda: now.time)
    return now


def made(tokens):
    return SimpleNamespace(num_generation_tokens=10 * tokens)


def test_sequences_are_weighted_by_time_and_a_pause_is_idle(clock):
    recorder = LoadRecorder()
    for seconds, running in ((1.0, 4), (3.0, 2), (2.0, 0)):
        clock.time += seconds
        recorder.record(SimpleNamespace(num_running_reqs=running), made(running))
    clock.time += 4.0  # none runs
    recorder.record(SimpleNamespace(num_running_reqs=6))
    clock.time += 1.0
    recorder.pause()
    clock.time += 5.0
    recorder.resume()
    clock.time += 1.0
    load = recorder.pop()
    assert (load.seconds, load.tokens) == (17.0, 60)
    assert load.busy_s == 3.0 + 2.0 + 1.0 + 1.0
    assert load.mean_running == pytest.approx((3 * 4 + 2 * 2 + 1 * 6 + 1 * 6) / 7)


def test_each_call_begins_anew(clock):
    recorder = LoadRecorder()
    recorder.record(SimpleNamespace(num_running_reqs=1))
    clock.time += 2.0
    recorder.pop()
    clock.time += 3.0
    assert recorder.pop() == (1.0, 3.0, 3.0, 0)
    recorder.record(None)
    assert recorder.pop() == (0.0, 0.0, 0.0, 0)


def test_tokens_count_once_also_without_statistics_of_the_scheduler(clock):
    """A step without them says nothing of what runs."""
    recorder = LoadRecorder()
    recorder.record(SimpleNamespace(num_running_reqs=2), made(1))
    clock.time += 1.0
    recorder.record(None, made(3))
    clock.time += 1.0
    assert recorder.pop() == (2.0, 2.0, 2.0, 40)
    assert recorder.pop().tokens == 0
