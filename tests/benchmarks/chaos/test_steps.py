"""Others' steps while a part is replaced, beside those before."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks.chaos.steps import Step, Steps, slowed

BEFORE = [Step(at, 2.0, 3.0 * at) for at in (10.0, 11.0, 12.0, 13.0)]


def test_steps_meanwhile_are_compared_with_those_before_by_clock_and_by_processor_time():
    meanwhile = [Step(20.0, 2.0, 42.0), Step(25.0, 4.0, 48.0), Step(30.0, 9.0, 99.0)]
    assert slowed(BEFORE + meanwhile, 15.0, 25.0) == (pytest.approx(1.5), pytest.approx(1.5))
    assert slowed(BEFORE + meanwhile, 15.0, 20.0) == (pytest.approx(1.0), pytest.approx(1.0))


def test_only_the_last_ones_before_are_compared_with():
    old = [Step(at, 50.0, 0.0) for at in (1.0, 2.0, 3.0)]
    before = [Step(10.0 + i, 2.0, 3.0 * i) for i in range(6)]
    assert slowed([*old, *before, Step(20.0, 2.0, 18.0)], 16.0, 30.0) == (1.0, 1.0)


@pytest.mark.parametrize(("begin", "end"), [(15.0, 16.0), (10.5, 30.0), (5.0, 30.0)])
def test_without_steps_before_or_meanwhile_there_is_nothing_to_compare(begin, end):
    assert slowed([*BEFORE[:2], Step(20.0, 2.0, 42.0)], begin, end) is None


def test_steps_of_a_rank_that_has_started_again_are_not_compared():
    """Its processor time begins anew, and its first steps are others than those before."""
    assert slowed([*BEFORE, Step(20.0, 2.0, 4.0, 8)], 15.0, 30.0) is None


def test_new_updates_are_noted_with_the_time_of_rank_0_so_far():
    records, spent = [{"time": 5.0, "learn_seconds": 0.5}], [7.0]
    rank = SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=spent[0], system=1.0), pid=7)
    steps = Steps(lambda since: [r for r in records if r["time"] > since], lambda: [rank], 1.0)
    steps.look()
    steps.look()
    records.append({"time": 9.0, "learn_seconds": 0.7})
    spent[0] = 9.0
    steps.look()
    assert steps.seen == [Step(5.0, 0.5, 8.0, 7), Step(9.0, 0.7, 10.0, 7)]
