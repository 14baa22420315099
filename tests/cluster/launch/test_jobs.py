"""A job's log and its end: lost connections, Ctrl-C, exit codes."""

import pytest

from cluster.failures import RunFailure
from cluster.launch import jobs
from tests.cluster.launch.fake_client import FakeClient


def test_a_lost_connection_repeats_and_loses_no_line(capsys):
    assert jobs.follow_log(FakeClient(), "x") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\njob x: succeeded, the end\n"


def test_ctrl_c_leaves_the_job_alone(capsys):
    class Interrupted(FakeClient):
        async def tail_job_logs(self, name):
            yield "one\n"
            raise KeyboardInterrupt

    assert jobs.follow_log(Interrupted(), "x") == 130
    said = capsys.readouterr()
    assert said.out == "one\n"
    assert "job x goes on; `cardinal job stop x` ends it" in said.err


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(jobs, "LOST_S", 0.0)
    with pytest.raises(RunFailure, match=r"lost http://head:8265 .*`cardinal job logs x`"):
        jobs.follow_log(FakeClient(breaks=9), "x")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("FAILED", 2, 2), ("FAILED", -9, 1), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs(status, code, expected):
    assert jobs.follow_log(FakeClient(status, code, breaks=0), "x") == expected
