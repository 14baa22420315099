"""Virtual time: threads that share cores slow each other, and waits are looked at when told."""

import pytest

from benchmarks.simulation.clock import Clock, Process


def test_more_threads_than_cores_make_all_of_them_slower():
    clock, happened = Clock(cores=2.0), []
    clock.threads, clock.busy_engines, clock.in_flight = 3.0, 1, 4
    clock.after(2.0, lambda: happened.append(clock.now))
    clock.run_next()
    assert happened == [pytest.approx(3.0)]
    assert (clock.work, clock.engine_s, clock.filled_s) == pytest.approx((2.0, 3.0, 12.0))
    clock.threads = 1.0  # fewer than cores: none is faster for it
    clock.after(1.0, lambda: None)
    clock.run_next()
    assert clock.now == pytest.approx(4.0)


def test_events_happen_in_order_of_time_then_of_coming():
    clock, happened = Clock(), []
    for name, at in (("b", 1.0), ("a", 0.5), ("c", 1.0)):
        clock.at(at, lambda name=name: happened.append(name))
    for _ in range(3):
        clock.run_next()
    assert happened == ["a", "b", "c"]


def test_a_thread_waits_for_seconds_and_for_conditions():
    clock, steps, open_ = Clock(), [], []

    def work():
        steps.append(("begin", clock.now))
        yield 2.0
        steps.append(("slept", clock.now))
        yield lambda: bool(open_)
        steps.append(("open", clock.now))
        yield lambda: True
        steps.append(("end", clock.now))

    process = Process(clock, work())
    process.go_on()
    process.look()  # it waits for time: nobody wakes it
    assert steps == [("begin", 0.0)]
    clock.run_next()
    process.look()
    assert steps[-1] == ("slept", 2.0)
    open_.append(1)
    process.look()
    assert [name for name, _ in steps] == ["begin", "slept", "open", "end"]
