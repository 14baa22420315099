"""The Ray session of a run: joined, or started for it; what does not start is said in one line."""

import os
import shlex
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from cluster.driver import session as module
from cluster.driver.session import session
from cluster.failures import DeadlineExceeded, OutOfMemory, RunFailure
from cluster.run.last_resort import GROUP_THREAD
from cluster.run.left_processes import MARK, process_state
from configs.load import load
from configs.paths import ROOT


@pytest.fixture
def connected(monkeypatch, tmp_path):
    """What Ray was started with, and when it was shut down; its logs say how it died."""
    done = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # not written by a session into this process
    monkeypatch.setattr(module.ray, "init", lambda **given: done.append(given))
    monkeypatch.setattr(module.ray, "shutdown", lambda: done.append("shutdown"))
    monkeypatch.setattr(module, "_start_worker_process", done.append)
    (tmp_path / "raylet.err").write_text("bash: line 1: /my: No such file or directory\n")
    monkeypatch.setattr(module, "session_logs", lambda: tmp_path)
    return done


def test_a_local_ray_gets_its_interpreter_as_bash_reads_it(connected, monkeypatch):
    monkeypatch.setattr(module.sys, "executable", "/my checkout/ü/python")
    with session(load("gp_l_debug"), 2.5):
        pass
    started, seconds, ended = connected
    assert shlex.split(started["runtime_env"]["py_executable"]) == ["/my checkout/ü/python"]
    assert (seconds, ended) == (300.0, "shutdown")
    assert started["_system_config"]["task_events_report_interval_ms"] == 0


def test_an_end_after_an_error_has_a_deadline_and_keeps_the_errors_code(connected, monkeypatch):
    """As where Ctrl-C comes while Ray starts."""

    @contextmanager
    def within(*words):
        connected.append(words)
        yield
        connected.append("in time")

    monkeypatch.setattr(module, "within", within)
    with pytest.raises(KeyboardInterrupt), session(load("gp_l_debug"), 2.5):
        raise KeyboardInterrupt
    assert connected[2:] == [(25.0, "Ray", "interrupted", 130), "shutdown", "in time"]


@pytest.mark.parametrize("address", [None, "somewhere"])
@pytest.mark.parametrize("asks", [True, False])
def test_under_a_thread_that_still_asks_it_ray_is_not_shut_down(
    connected, monkeypatch, asks, address
):
    """It would crash the process, its error untold; a cluster is left as it is anyhow."""
    over, failure = threading.Event(), OutOfMemory("a rank")
    thread = threading.Thread(target=over.wait, name=GROUP_THREAD if asks else "another")

    monkeypatch.setattr(module, "_address", lambda cfg: address)
    monkeypatch.setattr(module, "end_own", lambda: connected.append("end"))
    thread.start()
    with pytest.raises(OutOfMemory), session(load("gp_l_debug"), 2.5):
        raise failure
    over.set()
    thread.join()
    ends = [] if address else ["end" if asks else "shutdown"]
    assert connected[2:] == ends


def test_the_processes_of_a_local_ray_carry_their_drivers_mark(connected, monkeypatch):
    """By which they are known after its death; a joined cluster's are not this machine's."""
    marks = []
    monkeypatch.setenv(MARK, "of who started this process")
    monkeypatch.setattr(module.ray, "init", lambda **given: marks.append(os.environ[MARK]))
    with session(load("gp_l_debug"), 2.5):
        pass
    assert marks == [f"{os.getpid()}-{process_state(os.getpid())[1]}"]


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_a_local_ray_has_a_token_unless_the_user_says_otherwise(connected, monkeypatch, mode):
    if mode is None:
        monkeypatch.delenv("RAY_AUTH_MODE")
    told = []
    monkeypatch.setattr(module, "Config", SimpleNamespace(initialize=told.append))
    with session(load("gp_l_debug"), 2.5):
        assert os.environ["RAY_AUTH_MODE"] == (mode or "token")
    assert told == ([] if mode else [""])


def test_a_cluster_that_was_joined_has_its_own_mode(connected, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setattr(module, "_address", lambda cfg: "head:1")
    with session(load("gp_l_debug"), 2.5):
        assert "RAY_AUTH_MODE" not in os.environ


def test_an_error_that_somebody_waits_for_is_not_printed_besides(connected, monkeypatch):
    monkeypatch.setenv("RAY_IGNORE_UNHANDLED_ERRORS", "0")  # so that what is set goes again
    monkeypatch.delenv("RAY_IGNORE_UNHANDLED_ERRORS")
    with session(load("gp_l_debug"), 2.5):
        assert os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] == "1"


def test_nodes_of_a_cluster_have_their_own_interpreter(connected, monkeypatch):
    monkeypatch.setattr(module, "_address", lambda cfg: "head:1")
    with session(load("gp_l_debug"), 2.5):
        pass
    assert "py_executable" not in connected[0]["runtime_env"]


@pytest.mark.parametrize("error", [Exception("timed out\n at start"), OSError("too long")])
def test_a_ray_that_does_not_start_is_one_line_with_its_own_last_words(
    connected, monkeypatch, tmp_path, error
):
    def init(**given):
        raise error

    monkeypatch.setattr(module.ray, "init", init)
    with pytest.raises(RunFailure) as failure, session(load("gp_l_debug"), 2.5):
        pass
    line = str(failure.value)
    assert line.startswith(f"a local Ray does not start: {type(error).__name__}: ")
    assert line.endswith(f": bash: line 1: /my: No such file or directory (logs: {tmp_path})")
    assert "\n" not in line
    assert connected == ["shutdown"]


def test_a_busy_machine_is_given_the_deadline_to_start_ray(connected, monkeypatch, capsys):
    clock, late = [0.0], Exception("The current node timed out during startup. This could happen")

    def init(**given):
        clock[0] += 30
        if clock[0] < starts:
            raise late
        connected.append(given)

    monkeypatch.setattr(module.ray, "init", init)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    starts = 90.0
    with session(load("gp_l_debug"), 2.5):
        assert capsys.readouterr().out.count("the machine is busy; once more\n") == 2
    clock[0], starts = 0.0, 900.0
    with pytest.raises(RunFailure, match="timed out"), session(load("gp_l_debug"), 2.5):
        pass
    assert 300 <= clock[0] <= 360


def test_a_start_that_failed_leaves_no_process(connected, monkeypatch):
    """Those that ran before it are not its own."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    before, left = subprocess.Popen(sleep), []

    def init(**given):
        if left:
            assert not psutil.pid_exists(left[0].pid)
            return
        left.append(subprocess.Popen(sleep))
        raise Exception("The current node timed out during startup. This could happen")  # noqa: TRY002

    monkeypatch.setattr(module.ray, "init", init)
    try:
        with session(load("gp_l_debug"), 2.5):
            pass
        assert before.poll() is None
    finally:
        for process in (before, *left):
            process.kill()
            process.wait()


def test_a_worker_process_that_never_starts_is_told_by_the_deadline(monkeypatch, tmp_path):
    def late(ref, who, what, seconds, key):
        raise DeadlineExceeded(who, what, seconds, key)

    task = SimpleNamespace(remote=lambda: None)
    monkeypatch.setattr(module.ray, "remote", lambda **_: lambda function: task)
    monkeypatch.setattr(module, "wait_for", late)
    monkeypatch.setattr(module, "session_logs", lambda: None)
    words = r"^Ray did not start a worker process within 9 s \(cluster.start_deadline_s\);"
    with pytest.raises(RunFailure, match=words):
        module._start_worker_process(9.0)


@pytest.mark.slow
def test_a_real_ray_starts_where_the_interpreters_path_has_a_space(tmp_path):
    place = tmp_path / "mit leer ü"
    place.mkdir()
    (place / "env").symlink_to(Path(sys.prefix))
    code = (
        "from cluster.driver.session import session\n"
        "from configs.load import load; import sys, ray\n"
        "with session(load('gp_l_debug', ['cluster.start_deadline_s=120']), 1.0):\n"
        "    print(ray.get(ray.remote(lambda: sys.executable).remote(), timeout=60))"
    )
    python = place / "env" / "bin" / Path(sys.executable).name
    run = subprocess.run(
        [python, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.stdout.splitlines()[-1:] == [str(python)], run.stderr
