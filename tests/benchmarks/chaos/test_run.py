"""What is seen of a run from outside: the episodes that a restart has played again."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from benchmarks.chaos.run import FaultyRun, in_flight
from cluster.run.run_folder import write_config
from configs.load import load
from report.metrics import METRICS
from report.spans import SpanFile, read_spans


@pytest.fixture
def run(tmp_path):
    """A run without its process."""
    made = object.__new__(FaultyRun)
    made.folder, made.log = tmp_path, tmp_path / "log"
    made.log.write_text("it said this\n")
    made.driver = SimpleNamespace(poll=lambda: None)
    made.records, made._replaced, made.looks = [], [], []
    made._file = made._offset = 0
    write_config(load("gp_l_debug"), tmp_path)
    return made


def write(run, *records):
    """As a restarted learner does: into a new file."""
    draft = run.folder / "draft"
    draft.write_text("".join(json.dumps(record) + "\n" for record in records))
    draft.replace(run.folder / METRICS)


def update(number, time):
    return {"kind": "ppo", "update": number, "time": time}


def counts(folder, *rows):
    file = SpanFile(folder, "trajectory buffer")
    for running, ready, taken in rows:
        values = {"queued": 50, "running": running, "ready": ready, "taken": taken}
        file.count("episodes", values)
        file.count("others", {"running": 1})
    file.close()
    return [count.time for count in read_spans(folder).counts if count.name == "episodes"]


def test_what_the_ledger_had_last_is_played_again(tmp_path):
    times = counts(tmp_path, (3, 4, 5), (10, 20, 64), (0, 0, 0), (7, 0, 0))
    assert in_flight(tmp_path, times[0] - 1.0) == 0
    assert in_flight(tmp_path, times[0]) == 12
    assert in_flight(tmp_path, times[2]) == 94, "an epoch that begins has none"
    assert in_flight(tmp_path, times[3]) == 7


def test_so_is_what_undone_updates_had(run):
    (time,) = counts(run.folder, (10, 20, 0))
    write(run, *(update(number, time - 1.0) for number in (1, 2, 3, 4)))
    run.read("ppo", 0.0)
    write(run, update(1, time - 1.0), update(2, time - 1.0), update(3, time + 2.0))
    assert run.played_again(time + 1.0) == 30 + 2 * 64


def test_a_run_that_has_ended_is_an_error_with_its_last_words(run):
    run.check("it began")
    run.driver = SimpleNamespace(poll=lambda: 1)
    with pytest.raises(TimeoutError, match="ended before it began: it said this"):
        run.check("it began")


def test_what_is_looked_at_meanwhile_is_looked_at_at_each_turn_of_a_wait(run):
    seen = []
    run.looks.append(lambda: seen.append(len(seen)))
    run.until(lambda: len(seen) == 3, "three looks")
    assert seen == [0, 1, 2]


def test_a_death_becomes_known_by_ray_the_buffer_the_driver_and_the_controller(run):
    titles = ["/x/gcs_server --a", "/x/raylet/raylet --b", "ray::TrajectoryBuffer", "ray::IDLE"]
    titles += ["ray::TrainController.run", "python -m raylet", "ray::RolloutActor"]
    tree = [SimpleNamespace(pid=n, cmdline=title.split) for n, title in enumerate(titles, 20)]
    run._tree, run.driver.pid = (lambda: tree), os.getpid()
    assert run.finders() == [20, 21, 22, os.getpid(), 24]
