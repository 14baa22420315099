"""What a soak makes of a run: processes have grown or not, it has learned or not, limits hold."""

from __future__ import annotations

import fcntl
import random
import subprocess
import sys

import psutil
import pytest

from benchmarks.soak import (
    Minutes,
    Size,
    growth,
    learning,
    longest_after,
    moments,
    orphans,
    shortfalls,
)
from report.statistics import wilson

MIB = 2**20


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
        "most_more_files_of": "python",
        "more_processes": 1,
    }


def test_a_process_is_known_by_its_script_and_its_open_logs_of_ray_do_not_count(tmp_path):
    logs = tmp_path / "session_2026-11-27_1" / "logs"
    logs.mkdir(parents=True)
    script = tmp_path / "holds.py"
    script.write_text(
        "import sys, time\nfiles = [open(name, 'w') for name in sys.argv[1:]]\n"
        "print('open', flush=True)\ntime.sleep(60)\n"
    )

    def held(*names: str) -> Size:
        command = [sys.executable, "-u", str(script), *(str(tmp_path / name) for name in names)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            try:
                return Size.of(psutil.Process(process.pid))
            finally:
                process.kill()

    bare, logging, other = held(), held(str(logs / "a"), str(logs / "b")), held("a", "b")
    assert bare.title == "holds.py"
    assert (logging.files, other.files) == (bare.files, bare.files + 2)


def test_a_file_of_weights_is_left_behind_unless_an_actor_has_locked_it(tmp_path):
    for name in ("cardinal-w-a", "cardinal-w-b", "other"):
        (tmp_path / name).touch()
    with (tmp_path / "cardinal-w-a").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert [file.name for file in orphans(tmp_path)] == ["cardinal-w-b"]


def test_faults_that_come_in_between_are_no_hang():
    assert longest_after([], [0.0, 5.0, 25.0]) == 20.0
    assert longest_after([6.0, 20.0, 26.0], [0.0, 5.0, 25.0]) == 5.0
    assert longest_after([1.0], [0.0]) == 0.0


def update(time, success, episodes=100):
    return {"time": time, "success": success, "episodes": episodes}


def test_success_is_that_of_the_first_updates_of_the_last_before_a_fault_and_of_the_last():
    updates = [update(float(number), 0.01 * number) for number in range(1, 61)]
    found = learning(updates, faults=40.5)
    shares = [found[f"success_{name}"] for name in ("start", "first_fault", "end")]
    assert shares == pytest.approx([0.105, 0.305, 0.505])
    assert found["success_end_interval"] == wilson(1010.0, 2000)
    few = learning([update(1.0, 1.0), update(2.0, 0.5, episodes=300)], faults=0.5)
    assert few["success_start"] == few["success_end"] == pytest.approx(0.625)
    assert few["success_first_fault_interval"] == (0.0, 1.0), "nothing was played yet"


def test_quiet_minutes_come_before_the_faults_and_after_them():
    assert Minutes(quiet=2, rare=15, random=18).total == 37


GOOD = {
    "minutes": 35.2,
    "faults": 50,
    "updates": 900,
    "goodput": 0.8,
    "goodput_quiet": 0.75,
    "goodput_every_minutes": 3.0,
    "update_seconds": 1.0,
    "update_seconds_quiet": 1.0,
    "load_between": 4.0,
    "load_quiet": 4.0,
    "success_start": 0.4,
    "success_start_interval": [0.3, 0.5],
    "success_end": 0.9,
    "success_end_interval": [0.8, 0.95],
    "longest_after_fault_s": 360.0,
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
        ("goodput_quiet", 0.69),
        ("goodput_quiet", 0.91),
        ("longest_after_fault_s", 361.0),
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


@pytest.mark.parametrize(("end", "low"), [(0.45, 0.35), (0.6, 0.5), (0.2, 0.1)])
def test_a_run_that_has_not_learned_is_named(end, low):
    row = GOOD | {"success_end": end, "success_end_interval": [low, end + 0.1]}
    (sentence,) = shortfalls(row, 50, 35.0)
    assert sentence.startswith(f"success_end is {end}, no more than 0.4")
    assert shortfalls(row | {"success_end_interval": [0.51, 0.7]}, 50, 35.0) == []


@pytest.mark.parametrize(
    ("between", "quiet", "loads", "named"),
    [
        (1.0, 0.8, (4.0, 4.0), True),
        (1.0, 0.8, (5.1, 4.0), False),
        (1.0, 0.8, (4.9, 4.0), True),
        (1.0, 0.8, (4.0, 5.1), True),  # the slower pace was that with less other work
        (0.8, 1.0, (4.0, 5.1), False),
        (0.8, 1.0, (5.1, 4.0), True),
    ],
)
def test_two_paces_may_differ_where_other_work_explains_it(between, quiet, loads, named):
    row = GOOD | {"goodput_quiet": 0.65, "load_between": loads[0], "load_quiet": loads[1]}
    row |= {"update_seconds": between, "update_seconds_quiet": quiet}
    assert bool(shortfalls(row, 50, 35.0)) == named


def test_goodput_that_was_not_measured_or_under_more_faults_has_no_limit():
    assert shortfalls(GOOD | {"goodput": None}, 50, 35.0) == []
    often = {"goodput": 0.5, "goodput_quiet": 0.5, "goodput_every_minutes": 1.0}
    assert shortfalls(GOOD | often, 50, 35.0) == []


def test_minutes_show_neither_goodput_nor_whether_memory_is_flat():
    row = GOOD | {"goodput": 0.5, "goodput_quiet": 0.9, "most_growth_mib": 400.0}
    assert shortfalls(row, 3, 4.5) == []
    assert len(shortfalls(row, 3, 35.0)) == 3
    assert shortfalls(row | {"most_more_files": 1000}, 3, 4.5) != []
