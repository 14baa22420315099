"""An end that hangs is over in time: what is waited for is ended, and then the process is."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from cluster.exit_codes import ExitCode
from cluster.run import last_resort
from cluster.run.last_resort import within


@pytest.fixture
def done(monkeypatch):
    """What was done by force, in order."""
    found = queue.Queue()
    monkeypatch.setattr(last_resort, "end_own", lambda: found.put("all killed"))
    monkeypatch.setattr(last_resort.os, "_exit", lambda code: found.put(code))
    monkeypatch.setattr(last_resort, "AGAIN_S", 0.2)
    return found


def test_what_ends_in_time_is_left_alone(done, capsys):
    with within(0.2, "Ray", "lost", ExitCode.FAILED):
        pass
    time.sleep(0.5)
    assert done.empty()
    assert capsys.readouterr().err == ""


def test_what_goes_on_once_it_waits_for_nothing_more_ends_as_it_would(done, capsys, monkeypatch):
    monkeypatch.setattr(last_resort, "AGAIN_S", 0.5)
    with within(0.05, "Ray and the engines", "lost", ExitCode.FAILED):
        assert done.get(timeout=60) == "all killed"
    time.sleep(1.0)
    assert done.empty()
    words = "Ray and the engines did not end within 0.05 s: they are killed\n"
    assert capsys.readouterr().err == words


def test_what_hangs_all_the_same_ends_with_the_line_and_the_code_of_its_error(done, capsys):
    with within(0.05, "Ray", "an engine was lost", ExitCode.OUT_OF_MEMORY):
        found = [done.get(timeout=60) for _ in range(3)]
    assert found == ["all killed", "all killed", 12]
    assert capsys.readouterr().err.splitlines()[1:] == ["cardinal: an engine was lost"]


def test_an_error_inside_is_passed_on_and_its_time_is_over(done):
    with pytest.raises(OSError, match="disk"), within(0.1, "Ray", "lost", ExitCode.FAILED):
        raise OSError("disk")
    time.sleep(0.5)
    assert done.empty()


# Another thread writes what nobody reads, and the process has printed a line before.
UNREAD = """
import os, sys, threading
from cluster.exit_codes import ExitCode
from cluster.run import last_resort
print("said before")
{more}
with last_resort.within(0.1, "Ray", "taken away", ExitCode.TAKEN_AWAY):
    last_resort.AGAIN_S = 0.1
    threading.Event().wait(600)
"""


def end_unread(more="", **streams):
    command = [sys.executable, "-c", UNREAD.format(more=more)]
    buffered = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.Popen(command, text=True, env=buffered, **streams)


def test_what_was_printed_before_is_not_lost(tmp_path):
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        assert end_unread(stdout=stdout, stderr=stderr).wait(200) == 75
    assert out.read_text() == "said before\n"
    assert err.read_text().splitlines()[-1] == "cardinal: taken away"


@pytest.mark.parametrize("more", ["", "sys.stdout = None"])
@pytest.mark.parametrize("reads", ["nobody", "not yet", "one of them"])
def test_an_end_that_nobody_reads_is_an_end_all_the_same(more, reads):
    ends, pipe = os.pipe()
    if reads == "nobody":
        os.close(ends)
    else:
        os.set_blocking(pipe, False)
        with suppress(BlockingIOError):
            while os.write(pipe, b"x" * 65536):
                pass
        os.set_blocking(pipe, True)
    error = subprocess.PIPE if reads == "one of them" else pipe
    try:
        ended = end_unread(more, stdout=pipe, stderr=error)
        _, said = ended.communicate(timeout=200)
        assert ended.returncode == 75
        if said is not None:
            assert said.splitlines()[-1] == "cardinal: taken away"
    finally:
        os.close(pipe)


# It has started a process, which it waits for in vain.
HANGS = """
import subprocess, time
from cluster.exit_codes import ExitCode
from cluster.run import last_resort
from cluster.run.left_processes import mark_own
last_resort.AGAIN_S = 0.2
mark_own()
started = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL)
print(started.pid, flush=True)
with last_resort.within(0.2, "Ray", "taken away", ExitCode.TAKEN_AWAY):
    time.sleep(600)
"""


def test_a_real_one_leaves_no_process():
    from tests.cluster.run.test_left_processes import lives_by_id

    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=200
    )
    assert ended.returncode == 75, ended.stderr
    assert not lives_by_id(int(ended.stdout))
