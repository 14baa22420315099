"""The command doctor: lines or JSON, and 0 only where nothing is at fault."""

import json

import pytest

from cluster.cli import main
from cluster.doctor import examine
from cluster.doctor.result import Result, fault, ok, warning


@pytest.fixture
def doctor(monkeypatch, capsys):
    """main(["doctor", …]) with these findings: code, output, and what was examined."""
    examined = []

    def run(*arguments, findings=()):
        def found(cfg, named):
            examined.append((cfg, named))
            print("words of a library")
            for finding in findings:
                yield Result("disk", "", finding, 0.1)

        monkeypatch.setattr(examine, "examine", found)
        code = main(["doctor", *arguments])
        return code, capsys.readouterr().out, examined[-1]

    return run


def test_a_machine_without_faults_is_0(doctor):
    code, out, (cfg, named) = doctor(findings=[ok("fine"), warning("so", "x")])
    assert code == 0
    assert out.splitlines() == [
        "ok              disk: fine",
        "warning         disk: so → x",
        "nothing is at fault",
    ]
    assert (cfg.name, named) == ("gp_l_debug", False)


def test_a_fault_is_1_and_named(doctor):
    code, out, _ = doctor(findings=[fault("is full", "free some")])
    assert code == 1
    assert out.endswith("at fault: disk\n")


def test_json_is_json_alone(doctor):
    code, out, _ = doctor("--json", findings=[fault("is full"), ok("fine")])
    said = json.loads(out)
    assert code == 1
    assert said["faults"] == ["disk"]
    assert [check["status"] for check in said["checks"]] == ["fault", "ok"]


@pytest.mark.parametrize(
    ("arguments", "name", "named"),
    [
        (["gp_vl"], "gp_vl", True),
        (["gp_l", "name=mine"], "mine", True),
        (["name=mine"], "mine", False),
    ],
)
def test_a_run_may_be_named(doctor, arguments, name, named):
    _, _, (cfg, given) = doctor(*arguments, "--address", "h:1")
    assert (cfg.name, cfg.cluster.address, given) == (name, "h:1", named)


def test_a_job_server_is_refused(doctor, capsys):
    assert main(["doctor", "--address", "http://h:8265"]) == 2
    assert "a job server takes jobs, not members" in capsys.readouterr().err
