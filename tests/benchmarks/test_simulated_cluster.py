"""The row of a simulated cluster: what a trajectory costs is of all that were played."""

from __future__ import annotations

import json

import pytest

from benchmarks.simulated_cluster import Memory, TimedLedger, report
from benchmarks.simulation.virtual import WARM_UP
from tests.benchmarks.test_simulation import config, run

LEDGER = {"queued": 3, "running": 2, "ready": 5, "taken": 4, "trained": 8, "dropped failed": 3}
RECORD = {
    "seconds": 2.0,
    "running": 2.0,
    "busy_seconds": 2.0,
    "learner_idle": 0.25,
    "engine_idle": [0.5, None],
    "staleness": [4, 0],
    "ledger": LEDGER,
}


def test_those_that_were_played_ahead_count_and_a_lost_engine_does_not(capsys):
    memory = Memory([0.0], [1.0], [1.0])
    figures = report(config(1, episodes=4), [RECORD] * 3, memory, wall=6.0, buffer_s=0.02)
    assert figures["buffer_microseconds_a_trajectory"] == pytest.approx(1000.0)
    assert figures["engine_idle"] == 0.5
    assert json.loads(capsys.readouterr().out)["name"] == "processes"


def test_a_timed_ledger_counts_those_that_were_played_ahead():
    ledger = TimedLedger()
    run(config(2, engines=4, in_flight=2, episodes=16), 2, ledger)
    states = ledger.states()
    assert ledger.played == sum(states[name] for name in ("ready", "taken", "trained"))
    assert ledger.played > (WARM_UP + 2) * 16
    assert ledger.spent > 0
