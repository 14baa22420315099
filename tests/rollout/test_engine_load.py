"""An engine's load: seconds in which it has requests, pauses apart, and sequences that run."""

from types import SimpleNamespace

import pytest

from rollout import engine_load
from rollout.engine_load import LoadRecorder


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=100.0)
    monkeypatch.setattr(engine_load.time, "monotonic", lambda: now.time)
    return now


@pytest.fixture
def states(monkeypatch, clock):
    """[state, seconds] of each span that has ended."""
    ended = []

    def start_span(name, attributes):
        assert attributes == {"track": "engine"}
        begin = clock.time
        return SimpleNamespace(end=lambda: ended.append((name, clock.time - begin)))

    monkeypatch.setattr(engine_load, "TRACER", SimpleNamespace(start_span=start_span))
    return ended


def made(tokens):
    return SimpleNamespace(num_generation_tokens=10 * tokens)


def test_sequences_are_weighted_by_time_and_a_pause_is_idle(clock):
    recorder = LoadRecorder()
    clock.time += 1.0
    recorder.requests(4)
    clock.time += 0.5  # the first step, at whose end vLLM says that they run
    for seconds, running in ((0.0, 4), (3.0, 2), (2.0, 0)):
        clock.time += seconds
        recorder.record(SimpleNamespace(num_running_reqs=running), made(running))
    recorder.requests(-4)
    clock.time += 4.0  # it has none
    recorder.requests(6)
    recorder.record(SimpleNamespace(num_running_reqs=6))
    clock.time += 1.0
    recorder.pause()
    clock.time += 5.0
    recorder.resume()
    clock.time += 1.0
    load = recorder.total()
    assert (load.seconds, load.tokens) == (17.5, 60)
    assert load.busy_s == 0.5 + 3.0 + 2.0 + 1.0 + 1.0
    assert load.mean_running == pytest.approx((3 * 4 + 2 * 2 + 1 * 6 + 1 * 6) / 7.5)


def test_a_load_after_another_is_what_has_been_added(clock):
    recorder = LoadRecorder()
    recorder.requests(1)
    recorder.record(SimpleNamespace(num_running_reqs=1), made(2))
    clock.time += 2.0
    first = recorder.total()
    recorder.record(SimpleNamespace(num_running_reqs=3), made(1))
    clock.time += 3.0
    second = recorder.total()
    assert (first, second) == ((100.0, 2.0, 2.0, 2.0, 20), (100.0, 11.0, 5.0, 5.0, 30))
    assert second.after(first) == (100.0, 9.0, 3.0, 3.0, 10)
    assert second.after(first).mean_running == 3.0
    assert second.after(second).mean_running == 0.0


def test_all_that_another_engine_did_is_after_the_load_of_the_one_before(clock):
    old = LoadRecorder()
    clock.time += 4.0
    new, before = LoadRecorder(), old.total()
    clock.time += 2.0
    assert new.total().after(before) == (104.0, 0.0, 0.0, 2.0, 0)


def test_an_engine_is_busy_while_it_has_a_request(clock, states):
    recorder = LoadRecorder()
    for more, seconds in ((1, 2.0), (1, 3.0), (-1, 1.0), (-1, 4.0), (1, 0.0)):
        recorder.requests(more)
        clock.time += seconds
    assert states == [("idle", 0.0), ("busy", 6.0), ("idle", 4.0)]


def test_while_weights_load_it_is_neither_busy_nor_idle(clock, states):
    recorder = LoadRecorder()
    recorder.requests(1)
    for call, seconds in (
        (recorder.pause, 1.0),
        (recorder.load, 2.0),
        (lambda: recorder.requests(1), 3.0),  # which waits
        (recorder.resume, 4.0),
        (recorder.sleep, 5.0),
        (recorder.load, 6.0),
        (recorder.resume, 0.0),
    ):
        call()
        clock.time += seconds
    assert states == [
        ("idle", 0.0),
        ("busy", 0.0),
        ("paused", 1.0),
        ("loading", 5.0),
        ("busy", 4.0),
        ("asleep", 5.0),
        ("loading", 6.0),
    ]
    assert recorder.total().busy_s == 4.0


def test_tokens_count_once_also_without_statistics_of_the_scheduler(clock):
    """A step without them says nothing of what runs."""
    recorder = LoadRecorder()
    recorder.requests(1)
    recorder.record(SimpleNamespace(num_running_reqs=2), made(1))
    clock.time += 1.0
    recorder.record(None, made(3))
    clock.time += 1.0
    assert recorder.total() == (100.0, 4.0, 2.0, 2.0, 40)
