"""The doctor's round: every check is made, whatever another one does; faults are named."""

import time
from contextlib import contextmanager

import pytest

from cluster.doctor import all_reduce, examine, nodes, trials
from cluster.doctor.examine import MACHINE, made
from cluster.doctor.result import Result, Status, ok
from cluster.failures import RunFailure
from configs.load import ConfigError, load
from configs.model_folder import ModelSize
from tests.cluster.doctor.fakes import cluster, node


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConfigError("HOME=/x: is no folder"), "HOME=/x: is no folder"),
        (RunFailure("no Ray"), "no Ray"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_what_a_check_raises_is_its_fault(error, text):
    def find():
        raise error

    result = made("disk", "here", find, 5.0)
    assert (result.check, result.where, result.finding.text) == ("disk", "here", text)
    assert result.finding.status is Status.FAULT


def test_a_check_that_hangs_is_left_by_its_deadline():
    result = made("disk", "", lambda: time.sleep(30) or ok(""), 0.1)
    assert result.finding.status is Status.FAULT
    assert result.finding.text == "disk is not known (nothing came within 0.1 s)"
    assert 0.1 <= result.seconds < 10


@pytest.fixture
def doctor(monkeypatch, tmp_path):
    """examine() where machines are well, and Ray is as the test says."""
    calls = []
    for name in ("clocks", "shared_folder", "placement"):
        monkeypatch.setattr(nodes, name, lambda c, name=name: calls.append(name) or ok(name))
    monkeypatch.setattr(nodes, "elsewhere", lambda find, c: calls.append("elsewhere") or ok("x"))
    for name in ("gloo", "nccl"):
        monkeypatch.setattr(all_reduce, name, lambda c, name=name: calls.append(name) or ok(name))
    monkeypatch.setattr(trials, "run_trials", lambda c: iter([Result("engine", "", ok(""), 1.0)]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*there, named=False, refusal=None, **keys):
        @contextmanager
        def joined(subject, processors):
            if refusal:
                raise refusal
            calls.append("joined")
            yield cluster(*there)
            calls.append("left")

        monkeypatch.setattr(nodes, "joined", joined)
        cfg = load(
            "gp_l_debug", [f"cluster.root={tmp_path}", *(f"{k}={v}" for k, v in keys.items())]
        )
        return {(r.check, r.where): r.finding for r in examine.examine(cfg, named)}, calls

    return run


def test_one_machine_is_checked_and_then_its_ray(doctor):
    found, calls = doctor(node("a"))
    assert [check for check, _ in found] == [
        "model",
        *(check.name for check in MACHINE),
        "placement",
        "Ray",
        "clocks",
        "shared folder",
        "all_reduce gloo",
        "all_reduce nccl",
        "engine",
    ]
    assert calls == ["joined", "clocks", "shared_folder", "gloo", "nccl", "left"]
    assert found["placement", ""].text == "no configuration was named"


def test_a_cluster_is_checked_on_each_node(doctor):
    found, calls = doctor(node("a"), node("b"), node("c"), named=True, **{"cluster.address": "h:1"})
    for check in MACHINE:
        assert found[check.name, "2 other nodes"].text == "x"
    assert calls.count("elsewhere") == len(MACHINE)
    assert "placement" in calls
    assert ("placement", "") in found


def test_without_a_ray_the_rest_is_said(doctor):
    refusal = ConfigError("cluster.address=h:1: nothing answers there")
    found, calls = doctor(node("a"), refusal=refusal, **{"cluster.address": "h:1"})
    assert found["Ray", ""].status is Status.FAULT
    assert found["Ray", ""].text == "cluster.address=h:1: nothing answers there"
    assert calls == []
    assert found["disk", ""].status is Status.OK
    assert ("engine", "") not in found


def test_a_model_folder_without_weights_is_named(doctor, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    found, _ = doctor(node("a"), named=True, **{"model.path": str(tmp_path / "m")})
    assert found["model", ""].status is Status.FAULT
    assert f"model.path={tmp_path / 'm'}" in found["model", ""].text
    assert ("engine", "") in found


def test_a_model_is_measured(doctor, monkeypatch):
    asked = []
    monkeypatch.setattr(examine, "refuse_model", lambda cfg, path: asked.append(path))
    size = ModelSize({"layers": 1_234_567}, 1, 8, 9, None)
    monkeypatch.setattr(examine, "weights_size", lambda path: size)
    found, _ = doctor(node("a"), named=True, **{"model.path": "/models/x"})
    assert found["model", ""].text == "/models/x has 1,234,567 parameters"
    assert asked == ["/models/x"]
    assert found["placement", ""].status is Status.OK


def test_a_name_on_the_hub_is_not_looked_for(doctor):
    found, _ = doctor(node("a"), named=True, **{"model.path": "owner/name"})
    assert found["model", ""].status is Status.NOT_APPLICABLE
    assert "a name on the hub" in found["model", ""].text


def test_a_run_that_does_not_fit_this_machine_is_named(doctor):
    found, _ = doctor(node("a"), named=True, **{"rollout.kv_cache_gib": 5000})
    assert found["placement", ""].status is Status.FAULT
    assert "too little memory" in found["placement", ""].text
