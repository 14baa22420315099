"""Time is useful or not, by two paces of a run without a fault."""

from __future__ import annotations

import pytest

from benchmarks.chaos.goodput import Stretch, curve, load, measured, pace, undisturbed


def test_goodput_is_the_share_of_time_that_updates_without_a_fault_would_take():
    ends = [float(second) for second in range(0, 100, 2)]
    assert Stretch(10.0, 60.0).goodput(ends, 2.0) == 1.0
    assert Stretch(10.0, 210.0).goodput(ends, 2.0) == pytest.approx(44 * 2 / 200)
    assert Stretch(10.0, 60.0).goodput(ends, 3.0) == 1.0, "never more than all of the time"
    assert Stretch(200.0, 260.0).goodput(ends, 2.0) == 0.0
    assert Stretch(0.0, 4.0).updates([0.0, 1.0, 4.0, 4.5]) == 2


def test_what_an_update_takes_is_measured_before_each_fault():
    first, second = undisturbed(1000.0, [0.0, 180.0], 3.0)
    assert (first, second) == (Stretch(1120.0, 1180.0), Stretch(1300.0, 1360.0))
    ends = [1130.0, 1140.0, 1150.0, 1200.0, 1320.0]
    assert pace([first, second], ends) == 120.0 / 4
    assert pace([first], []) == 60.0
    assert undisturbed(0.0, [0.0], 5.0) == [Stretch(240.0, 300.0)]
    assert undisturbed(0.0, [0.0, 120.0], 2.0) == [], "the run may not have recovered"


def test_the_curve_is_of_faults_that_cost_as_much_as_those_that_were_measured():
    computed = curve(0.9, 3.0)
    assert list(computed) == ["1", "2", "3", "5", "10", "30", "60"]
    assert computed["3"] == pytest.approx(0.9)
    assert (computed["1"], computed["60"]) == (pytest.approx(0.7), pytest.approx(0.995))
    assert curve(0.5, 3.0)["1"] == 0.0
    assert curve(0.6, 1.0)["2"] == pytest.approx(0.8)


def test_faults_that_come_too_often_are_measured_by_the_quiet_pace():
    quiet, ends = (
        [Stretch(0.0, 60.0)],
        [float(second) for second in (*range(1, 61), *range(61, 91))],
    )
    row = measured(quiet, Stretch(60.0, 120.0), [0.0], ends, [(30.0, 4.0), (90.0, 9.0)], 1.0)
    assert row["goodput"] == row["goodput_quiet"] == pytest.approx(0.5)
    assert (row["load_between"], row["load_quiet"]) == (4.0, 4.0)
    assert (row["goodput_every_minutes"], row["goodput_computed_by_minutes"]["5"]) == (1.0, 0.9)


def test_a_load_is_the_mean_within_the_stretches():
    loads = [(0.0, 9.0), (1.0, 2.0), (2.0, 4.0), (3.0, 8.0), (5.0, 6.0)]
    assert load([Stretch(0.0, 2.0)], loads) == 3.0
    assert load([Stretch(0.0, 1.0), Stretch(4.0, 5.0)], loads) == 4.0
    assert load([], loads) == 0.0


def test_goodput_is_measured_by_the_minutes_between_faults_and_by_the_quiet_ones():
    """An update takes 1 s in quiet minutes, 2 s between faults; for a minute there is none."""
    quiet = [Stretch(0.0, 60.0), Stretch(240.0, 300.0)]
    ends = [float(second) for second in (*range(1, 61), *range(122, 241, 2), *range(241, 301))]
    loads = [(30.0, 4.0), (100.0, 9.0), (200.0, 6.0), (270.0, 2.0)]
    row = measured(quiet, Stretch(60.0, 240.0), [0.0], ends, loads)
    assert (row["update_seconds"], row["update_seconds_quiet"]) == (2.0, 1.0)
    assert row["goodput"] == pytest.approx(2 / 3)
    assert row["goodput_quiet"] == pytest.approx(1 / 3)
    assert row["goodput_computed_by_minutes"]["3"] == pytest.approx(2 / 3)
    assert (row["load_between"], row["load_quiet"]) == (6.0, 3.0)


def test_without_faults_now_and_then_there_is_a_pace_and_no_goodput():
    row = measured([Stretch(0.0, 60.0)], Stretch(60.0, 60.0), [], [20.0, 40.0], [])
    assert (row["update_seconds"], row["goodput"], row["goodput_quiet"]) == (30.0, None, None)
    assert row["goodput_computed_by_minutes"] is None
