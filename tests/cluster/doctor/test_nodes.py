"""Nodes: each is asked, one that does not answer is named, and a folder that is not shared too."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import GetTimeoutError, WorkerCrashedError

from cluster.doctor import nodes
from cluster.doctor.nodes import clocks, elsewhere, judge_clock, on_nodes, shared_folder
from cluster.doctor.result import Status, fault, ok
from cluster.failures import PlacementError, RunFailure
from configs.load import ConfigError
from tests.cluster.doctor.fakes import cluster, node, node_id

A, B, C = node("a"), node("b"), node("c")


@pytest.fixture
def ray(monkeypatch):
    """Ray, as far as `on_nodes` uses it: a call's value or error is at hand at once."""
    done = SimpleNamespace(placed=[], cancelled=[], options=None, timeouts=[])

    def remote(**options):
        done.options = options

        def task(function):
            def place(scheduling_strategy):
                done.placed.append((scheduling_strategy.node_id, scheduling_strategy.soft))
                return SimpleNamespace(remote=lambda call: (function, call))

            return SimpleNamespace(options=place)

        return task

    def get(ref, timeout):
        done.timeouts.append(timeout)
        function, call = ref
        return function(call)

    monkeypatch.setattr(nodes.ray, "remote", remote)
    monkeypatch.setattr(nodes.ray, "get", get)
    monkeypatch.setattr(nodes.ray, "cancel", lambda ref, force: done.cancelled.append(force))
    return done


def fails(error):
    def call():
        raise error

    return call


def test_each_node_is_asked_there_and_a_failure_is_its_own(ray):
    calls = [lambda: 1, fails(GetTimeoutError()), fails(WorkerCrashedError())]
    one, late, lost = on_nodes([A, B, C], calls, 7.0, gpus=2)
    assert one == 1
    assert str(late) == "does not answer within 7 s"
    assert isinstance(lost, RunFailure)
    assert ray.placed == [(node_id("a"), False), (node_id("b"), False), (node_id("c"), False)]
    assert ray.options == {"num_cpus": 0, "num_gpus": 2, "max_retries": 0}
    assert ray.cancelled == [True]
    assert all(0 < timeout <= 7 for timeout in ray.timeouts)


def test_a_machines_check_is_made_on_all_others(ray):
    asked = []

    def find(subject):
        asked.append(subject)
        return ok("fine")

    made = cluster(A, B, C)
    assert elsewhere(find, made).text == "all 2: fine"
    assert asked == [made.subject] * 2
    assert ray.placed == [(node_id("b"), False), (node_id("c"), False)]


def test_a_refusal_there_is_a_fault_and_so_is_silence(ray):
    found = elsewhere(fails_with(ConfigError("HOME=/proc: cannot be written to")), cluster(A, B))
    assert (found.status, found.text) == (Status.FAULT, "b: HOME=/proc: cannot be written to")
    found = elsewhere(fails_with(WorkerCrashedError()), cluster(A, B))
    assert found.status is Status.FAULT
    assert found.text.startswith("b: WorkerCrashedError")


def fails_with(error):
    def find(subject):
        raise error

    return find


@pytest.mark.parametrize(
    ("skew", "status"),
    [(0.0, Status.OK), (1.9, Status.OK), (2.1, Status.WARNING), (901.0, Status.FAULT)],
)
def test_a_wrong_clock_is_named_with_what_it_breaks(skew, status):
    found = judge_clock(skew)
    assert found.status is status
    assert found.numbers == {"skew_s": skew}
    assert (found.remedy == "") is (status is Status.OK)


def test_clocks_are_compared_within_the_time_that_the_answer_took(monkeypatch):
    answers = [0.0]
    monkeypatch.setattr(nodes, "on_nodes", lambda *_: [time.time() + answers[0]])
    assert clocks(cluster(A, B)).status is Status.OK
    answers = [-60.0]
    found = clocks(cluster(A, B))
    assert found.status is Status.WARNING
    assert found.text.startswith("b: its clock differs by 60.0 s")
    answers = [60.0]
    assert clocks(cluster(A, B)).status is Status.WARNING
    monkeypatch.setattr(nodes, "on_nodes", lambda *_: [RunFailure("is gone")])
    assert clocks(cluster(A, B)).text == "b: its clock is not known: is gone"
    assert clocks(cluster(A)).status is Status.NOT_APPLICABLE


@pytest.fixture
def sees(monkeypatch):
    """What other nodes see and write: chosen by the test."""
    chosen = SimpleNamespace(missing=None, write=lambda call: call(), asked=None)

    def check(root, model, plan, seconds):
        chosen.asked = (root, model, [n.name for n in plan.hosts()])
        if chosen.missing:
            raise PlacementError(f"node {chosen.missing} does not see {root}")

    monkeypatch.setattr(nodes, "check_shared_storage", check)
    monkeypatch.setattr(
        nodes, "on_nodes", lambda asked, calls, seconds: [chosen.write(call) for call in calls]
    )
    return chosen


def test_a_folder_that_all_nodes_write_is_well_and_left_clean(sees, tmp_path):
    found = shared_folder(cluster(A, B, C, root=tmp_path))
    assert (found.status, found.text) == (Status.OK, f"3 nodes read and write {tmp_path}")
    assert sees.asked == (tmp_path, str(tmp_path), ["a", "b", "c"])
    assert list(tmp_path.iterdir()) == []
    assert shared_folder(cluster(A, root=tmp_path)).status is Status.NOT_APPLICABLE


def test_a_folder_that_a_node_does_not_see_is_at_fault(sees, tmp_path):
    sees.missing = "b"
    found = shared_folder(cluster(A, B, root=tmp_path))
    assert (found.status, found.text) == (Status.FAULT, f"node b does not see {tmp_path}")
    assert "mount one shared file system" in found.remedy


def test_a_folder_where_a_nodes_files_stay_its_own_is_at_fault(sees, tmp_path):
    sees.write = lambda call: None
    found = shared_folder(cluster(A, B, root=tmp_path))
    assert found.text == f"what node b writes to {tmp_path} is not seen here"
    sees.write = lambda call: RunFailure("PermissionError: denied")
    found = shared_folder(cluster(A, B, root=tmp_path))
    assert found.text == f"node b cannot write to {tmp_path}: PermissionError: denied"
    assert found.status is Status.FAULT


def test_a_relative_folder_is_no_shared_one(sees):
    found = shared_folder(cluster(A, B, root="runs"))
    assert found.status is Status.FAULT
    assert found.text == "cluster.root=runs: is relative, so that each node has its own"


def test_the_model_is_looked_for_on_each_node(sees, tmp_path):
    shared_folder(cluster(A, B, root=tmp_path, **{"model.path": "/shared/m"}))
    assert sees.asked[1] == "/shared/m"


def test_a_mark_is_a_file(tmp_path):
    nodes._write(Path(tmp_path / "mark"))
    assert (tmp_path / "mark").read_text() == ""


def test_a_fault_keeps_what_to_do():
    assert nodes._found(lambda subject: fault("x", "y"), None).remedy == "y"
