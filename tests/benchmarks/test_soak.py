"""What a soak makes of a run: episodes are accounted for, time is useful or not, limits hold."""

from __future__ import annotations

import fcntl
import random

import pytest

from benchmarks.soak import (
    Account,
    Size,
    Stretch,
    account,
    curve,
    growth,
    moments,
    orphans,
    pace,
    shortfalls,
    undisturbed,
)

MIB = 2**20


def ids(update, *indices):
    return [f"ppo/{update:06d}/{index:06d}" for index in indices]


@pytest.mark.parametrize(
    ("failed", "trained", "expected"),
    [
        ([], [ids(1, 0, 1, 2), ids(2, 0, 1, 2)], Account(6, 0, 0, 0)),
        (ids(1, 1), [[*ids(1, 0, 2), *ids(2, 0)], ids(2, 1, 2)], Account(5, 0, 1, 0)),
        ([], [ids(1, 0, 1, 2), [*ids(1, 2), *ids(2, 0, 1)]], Account(6, 1, 0, 0)),
        ([], [ids(1, 0, 1, 2), ids(2, 0, 2)], Account(5, 0, 0, 1)),
        (ids(1, 2), [ids(1, 0, 1, 2), ids(3, 0, 1, 2)], Account(6, 0, 0, 3)),
        (ids(4, 0), [ids(1, 0, 2)], Account(2, 0, 1, 1)),
        (ids(1, 1) * 2, [ids(1, 0, 2)], Account(2, 0, 1, 0)),
        (ids(1, 2), [ids(1, 0, 1)], Account(2, 0, 1, 0)),
        ([], [], Account(0, 0, 0, 0)),
    ],
)
def test_each_episode_is_trained_once_dropped_or_missing(failed, trained, expected):
    assert account(failed, trained, 3) == expected


def test_goodput_is_the_share_of_time_that_updates_without_a_fault_would_take():
    ends = [float(second) for second in range(0, 100, 2)]
    assert Stretch(10.0, 60.0).goodput(ends, 2.0) == 1.0
    assert Stretch(10.0, 210.0).goodput(ends, 2.0) == pytest.approx(44 * 2 / 200)
    assert Stretch(10.0, 60.0).goodput(ends, 3.0) == 1.0, "never more than all of the time"
    assert Stretch(200.0, 260.0).goodput(ends, 2.0) == 0.0
    assert Stretch(0.0, 4.0).updates([0.0, 1.0, 4.0, 4.5]) == 2


def test_what_an_update_takes_is_measured_before_each_fault():
    first, second = undisturbed(1000.0, [0.0, 180.0])
    assert (first, second) == (Stretch(1120.0, 1180.0), Stretch(1300.0, 1360.0))
    ends = [1130.0, 1140.0, 1150.0, 1200.0, 1320.0]
    assert pace([first, second], ends) == 120.0 / 4
    assert pace([first], []) == 60.0


def test_the_curve_is_of_faults_that_cost_as_much_as_those_that_were_measured():
    computed = curve(0.9, 3.0)
    assert list(computed) == ["1", "2", "3", "5", "10", "30", "60"]
    assert computed["3"] == pytest.approx(0.9)
    assert (computed["1"], computed["60"]) == (pytest.approx(0.7), pytest.approx(0.995))
    assert curve(0.5, 3.0)["1"] == 0.0


def test_random_moments_are_in_order_and_as_many_as_said():
    drawn = moments(random.Random(0), 5.0, 9.0, 40)
    assert drawn == sorted(drawn)
    assert len(drawn) == 40
    assert all(5.0 <= moment <= 9.0 for moment in drawn)


def test_only_processes_that_no_fault_replaced_are_compared():
    before = {1: Size("python", 10.0, 5 * MIB, 7), 2: Size("raylet", 11.0, MIB, 3)}
    before |= {3: Size("ray::A", 12.0, MIB, 1), 4: Size("", 0.0, 0, 0)}
    after = {1: Size("python", 10.0, 6 * MIB, 9), 2: Size("raylet", 11.0, 5 * MIB, 3)}
    after |= {3: Size("ray::B", 99.0, 900 * MIB, 99), 4: Size("", 0.0, 0, 0), 5: before[3]}
    assert growth(before, after, driver=1) == {
        "driver_growth_mib": 1.0,
        "driver_more_files": 2,
        "most_growth_mib": 4.0,
        "most_growth_of": "raylet",
        "most_more_files": 2,
        "more_processes": 1,
    }


def test_a_file_of_weights_is_left_behind_unless_an_actor_has_locked_it(tmp_path):
    for name in ("cardinal-w-a", "cardinal-w-b", "other"):
        (tmp_path / name).touch()
    with (tmp_path / "cardinal-w-a").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert [file.name for file in orphans(tmp_path)] == ["cardinal-w-b"]


GOOD = {
    "minutes": 35.2,
    "faults": 50,
    "updates": 900,
    "goodput": 0.8,
    "longest_without_update_s": 300.0,
    "twice": 0,
    "missing": 0,
    "driver_growth_mib": 100.0,
    "most_growth_mib": 100.0,
    "most_more_files": 20,
    "more_processes": 4,
    "shared_memory_files": 0,
    "processes_left": [],
    "exit_code": 75,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("minutes", 34.9),
        ("faults", 49),
        ("updates", 1),
        ("goodput", 0.79),
        ("longest_without_update_s", 301.0),
        ("twice", 1),
        ("missing", 1),
        ("driver_growth_mib", 101.0),
        ("most_growth_mib", 101.0),
        ("most_more_files", 21),
        ("more_processes", 5),
        ("shared_memory_files", 1),
        ("processes_left", ["ray::IDLE"]),
        ("exit_code", 1),
        ("exit_code", None),
    ],
)
def test_each_figure_that_misses_its_limit_is_named(field, value):
    assert shortfalls(GOOD, 50, 35.0) == []
    (sentence,) = shortfalls(GOOD | {field: value}, 50, 35.0)
    assert str(value) in sentence
    assert field.split("_")[0] in sentence


def test_goodput_that_was_not_measured_has_no_limit():
    assert shortfalls(GOOD | {"goodput": None}, 50, 35.0) == []
