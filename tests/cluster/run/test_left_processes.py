"""Processes that outlive the driver that started them: known, waited for, ended; no others."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack

import psutil
import pytest

from cluster.run.left_processes import MARK, end_left, process_state

# A driver: its own start, and the ids of what it started, one that ends by itself and one not.
DRIVER = """
import os, subprocess, sys, time
from cluster.run.left_processes import mark_own, process_state
mark_own()
none = subprocess.DEVNULL
ids = [subprocess.Popen(["sleep", seconds], stdout=none).pid for seconds in sys.argv[1:]]
print(process_state(os.getpid())[1], *ids, flush=True)
time.sleep(600)
"""


# What it ends before it has marked anything is nothing, whatever mark it has itself.
ENDS = """
import subprocess, sys
from cluster.run.left_processes import end_own, mark_own
end_own()
mark_own()
titled = "import setproctitle as s, time; s.setproctitle('ray::Agent' * 30); print(1, flush=True)"
titled += "; time.sleep(600)"
own = subprocess.Popen([sys.executable, "-c", titled], stdout=subprocess.PIPE)
own.stdout.readline()
end_own()
print(own.pid)
"""


@pytest.fixture
def dead_driver():
    """A function that starts a driver with sleeping processes and kills it: pid, start, their."""
    with ExitStack() as stack:

        def started(*seconds):
            driver = subprocess.Popen(
                [sys.executable, "-c", DRIVER, *seconds], stdout=subprocess.PIPE, text=True
            )
            start, *ids = map(int, driver.stdout.readline().split())
            left = [psutil.Process(pid) for pid in ids]
            for process in left:
                stack.callback(end, process)
            driver.kill()
            driver.communicate()
            return driver.pid, start, left

        yield started


def end(process):
    if process.is_running():
        process.kill()


def lives(process):
    """A dead one may be a zombie for a while: who adopted it waits for it."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def lives_by_id(pid):
    return psutil.pid_exists(pid) and lives(psutil.Process(pid))


def test_who_ends_by_itself_is_waited_for_and_who_stays_is_ended(dead_driver, capsys):
    pid, start, (soon, never) = dead_driver("1", "600")
    end_left(pid, start, patience_s=3)
    assert not lives(soon)
    assert not lives(never)
    said = capsys.readouterr().err
    assert said.splitlines()[0] == f"waiting for 2 processes of process {pid}, which died"
    assert said.splitlines()[1:] == [f"ended sleep (process {never.pid}), which stayed"]


def test_nobody_is_ended_before_the_time(dead_driver, capsys):
    pid, start, (soon,) = dead_driver("1")
    end_left(pid, start)
    assert not lives(soon)
    assert "ended" not in capsys.readouterr().err


def test_those_of_others_are_left_alone(dead_driver, capsys):
    """Of a driver that had the same id before, of a living one, and of none."""
    pid, start, (theirs,) = dead_driver("600")
    end_left(pid, start + 1, patience_s=0)
    end_left(pid + 1, start, patience_s=0)
    assert lives(theirs)
    assert capsys.readouterr().err == ""


def test_a_process_ends_its_own_and_no_others(dead_driver, monkeypatch):
    """What another driver has started, of which it may be a part itself, stays."""
    _, _, (theirs,) = dead_driver("600")
    monkeypatch.setenv(MARK, theirs.environ()[MARK])
    ended = subprocess.run([sys.executable, "-c", ENDS], stdout=subprocess.PIPE, timeout=60)
    assert ended.returncode == 0
    assert not lives_by_id(int(ended.stdout))
    assert lives(theirs)


def test_who_asks_is_not_ended(monkeypatch):
    """A study's slot that goes on with a run may itself have been started by what died."""
    own = process_state(os.getpid())[1]
    environment = {**os.environ, MARK: f"{os.getpid()}-{own}"}
    asks = f"from {end_left.__module__} import end_left; end_left({os.getpid()}, {own}, 0)"
    assert subprocess.run([sys.executable, "-c", asks], env=environment, timeout=60).returncode == 0


def test_a_process_whose_name_looks_like_fields_is_read():
    code = "open('/proc/self/comm', 'w').write(') Z 1 (2'); print(1, flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        state, started = process_state(child.pid)
        assert state in "SRD"
        assert started >= process_state(os.getpid())[1]
        since_boot = psutil.Process(child.pid).create_time() - psutil.boot_time()
        assert abs(started / os.sysconf("SC_CLK_TCK") - since_boot) < 2
        child.kill()
