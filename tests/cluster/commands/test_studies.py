"""study: checked first, and run only where that is asked for."""

import pytest

from cluster.cli import main
from cluster.run.stop_signals import StopSignals
from tests.cluster.commands.folders import said


@pytest.fixture
def seen(monkeypatch):
    calls = []
    monkeypatch.setattr("configs.study.load_study", lambda name: f"plan of {name}")
    monkeypatch.setattr("cluster.study.run.check_study", lambda *given: calls.append(given))
    monkeypatch.setattr("cluster.study.run.refuse_study", lambda *given: calls.append("refuse"))
    monkeypatch.setattr(
        "cluster.study.run.study", lambda *given: calls.append((*given[:2], type(given[2]))) or 1
    )
    return calls


def test_a_study_is_checked_and_run(seen):
    assert main(["study", "mine", "--parallel", "2"]) == 1
    assert seen == [("plan of mine", 2), "refuse", ("plan of mine", 2, StopSignals)]


def test_a_check_starts_nothing(seen):
    assert main(["study", "mine", "--check"]) == 0
    assert seen == [("plan of mine", 1)]


def test_at_least_one_run_at_once(seen, capsys):
    assert main(["study", "mine", "--parallel", "0"]) == 2
    assert "--parallel 0: must be at least 1" in said(capsys)
    assert seen == []
