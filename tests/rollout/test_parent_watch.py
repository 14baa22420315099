"""What an engine started does not outlive who started the engine."""

import subprocess
import sys
import time

import psutil
import pytest

from configs.paths import ROOT

WORKER = """
import sys, time
from rollout.parent_watch import end_with
end_with(int(sys.argv[1]))
time.sleep(600)
"""
BETWEEN = """
import subprocess, sys, time
subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]])
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:2], str(os.getpid()), *sys.argv[2:]])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("programs", [(WORKER,), (BETWEEN, WORKER)], ids=["core", "worker"])
def test_all_end_with_the_parent_and_none_before(programs):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *programs], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    first = psutil.Process(int(parent.stdout.readline()))
    started = wait_for_processes(first, len(programs))
    try:
        time.sleep(2.5)  # two looks
        assert all(map(lives, started))
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 30
        while any(map(lives, started)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for process in [parent, *filter(lives, started)]:
            process.kill()


def wait_for_processes(first, number):
    deadline = time.monotonic() + 60
    while True:
        started = [first, *first.children()]
        # The watch is a second thread of the last one.
        if len(started) == number and started[-1].num_threads() > 1:
            return started
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lives(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
