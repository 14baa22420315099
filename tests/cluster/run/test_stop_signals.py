"""Signals: the first one ends a run, or asks it to end; no other disturbs how it does."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest

from cluster.run import stop_signals
from cluster.run.stop_signals import SIGNALS, StopSignals, Terminated, raising_terminated


@pytest.fixture(autouse=True)
def no_nohup():
    """Signals are heard although the tests may run under it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGINT, KeyboardInterrupt),
        (signal.SIGTERM, Terminated),
        (signal.SIGHUP, Terminated),
    ],
)
def test_the_first_one_raises_and_no_other(number, kind):
    before = [signal.getsignal(n) for n in SIGNALS]
    raised = []
    with StopSignals() as signals:
        try:
            send(number)
        except KeyboardInterrupt as error:
            raised.append(type(error))
        send(signal.SIGTERM)
        send(signal.SIGINT)
    assert raised == [kind]
    assert len(signals.received) == 3
    assert [signal.getsignal(n) for n in SIGNALS] == before


@pytest.fixture
def forced(monkeypatch):
    """How a process was ended by force, instead of its end."""
    ends = queue.Queue()
    monkeypatch.setattr(stop_signals, "end_at_once", lambda *words: ends.put(words))
    return ends


@pytest.mark.parametrize("quietly", ["hold", "end"])
def test_none_raises_once_the_run_ends(quietly, forced):
    with StopSignals() as signals:
        getattr(signals, quietly)()
        send()
    assert signals.received == [signal.SIGINT]
    assert forced.empty()


@pytest.mark.parametrize(
    ("first", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (None, 130)]
)
def test_one_that_comes_while_the_run_ends_ends_it_by_force(forced, capsys, first, code):
    """After a failure the first one says what the next does."""
    before = signal.set_wakeup_fd(-1)
    with StopSignals() as signals:
        if first is not None:
            with pytest.raises(KeyboardInterrupt):
                send(first)
        assert capsys.readouterr().err == ""
        signals.end()
        signals.end()
        said = "ending Ray and the engines; another signal ends them by force\n"
        assert capsys.readouterr().err == said * (first is not None)
        if first is not None:
            send(signal.SIGHUP)  # of a closed terminal: no second one
            time.sleep(0.5)
            assert forced.empty()
        send()
        if first is None:
            time.sleep(0.5)
            assert capsys.readouterr().err == said
            assert forced.empty()
            send()
        line, ended = forced.get(timeout=60)
        assert ended == code
        assert line == f"ended by force after {(first or signal.SIGINT).name}"
    assert signal.set_wakeup_fd(-1) == before


@pytest.mark.parametrize(
    ("error", "code"), [(None, 0), (OSError("disk"), 130), (KeyboardInterrupt(), 130)]
)
def test_however_it_ends_it_can_be_ended_by_force_and_is_done_only_without_an_error(
    forced, error, code
):
    with StopSignals() as signals:
        with nullcontext() if error is None else pytest.raises(type(error)), signals.ending():
            if error is not None:
                raise error
        send()
        time.sleep(0.5)
        send()
        assert forced.get(timeout=60)[1] == code


# The main thread is in a call that hears no signal, as those of Ray's may be.
DEAF = """
import ctypes, os, signal, threading
from cluster.run.stop_signals import StopSignals
with StopSignals() as signals:
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except KeyboardInterrupt:
        signals.end()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    C = ctypes.CDLL(None)
    C.pthread_mutex_lock(lock := ctypes.create_string_buffer(64))
    C.pthread_mutex_lock(lock)
"""


def test_it_is_heard_where_the_main_thread_hears_none():
    command = [sys.executable, "-c", DEAF]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 75
    assert ended.stderr.splitlines() == [
        "ending Ray and the engines; another signal ends them by force",
        "cardinal: ended by force after SIGTERM",
    ]


def test_while_it_asks_none_raises_before_the_end():
    passed = []

    def stopped(signals):
        with signals.asking():
            send(signal.SIGTERM)
            send()
            passed.append(1)

    with StopSignals() as signals, pytest.raises(Terminated):
        stopped(signals)
    assert passed == [1]
    with StopSignals() as signals:
        with signals.asking():
            passed.append(2)
        with pytest.raises(KeyboardInterrupt):
            send()


def test_an_error_while_it_asks_is_not_hidden():
    def fails(signals):
        with signals.asking():
            send()
            raise OSError("disk")

    with StopSignals() as signals, pytest.raises(OSError, match="disk"):
        fails(signals)


def test_a_run_has_its_time_after_the_first_and_none_after_the_second(capsys):
    asked = []
    with StopSignals() as signals:
        signals.hold()
        assert not signals.must_end(0.0, pytest.fail)
        send()
        assert not signals.must_end(60.0, lambda: asked.append(1))
        assert not signals.must_end(60.0, lambda: asked.append(1))
        send()
        assert signals.must_end(60.0, pytest.fail)
    assert asked == [1, 1]
    assert capsys.readouterr().err.count("SIGINT: the run ends within 60 s") == 1


def test_a_checkpoint_is_asked_for_before_anything_is_said(monkeypatch):
    asked, (read, write) = [], os.pipe()
    os.close(read)
    monkeypatch.setattr(sys, "stderr", os.fdopen(write, "w", buffering=1))
    with StopSignals() as signals:
        signals.hold()
        send()
        with pytest.raises(BrokenPipeError):
            signals.must_end(60.0, lambda: asked.append(1))
    assert asked == [1]


def test_of_a_closed_terminal_both_the_kernel_and_the_shell_tell():
    with StopSignals() as signals:
        signals.hold()
        send(signal.SIGHUP)
        send(signal.SIGHUP)
        assert not signals.must_end(60.0, lambda: None)
        assert str(signals.error()) == "SIGHUP"
        send(signal.SIGTERM)
        assert signals.must_end(60.0, pytest.fail)


def test_under_nohup_the_end_of_the_terminal_is_not_heard():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as signals, raising_terminated():
            send(signal.SIGHUP)
            assert signals.received == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_raises_where_nothing_else_takes_it(number):
    before = signal.getsignal(number)
    with pytest.raises(Terminated, match=number.name), raising_terminated():
        send(number)
    assert signal.getsignal(number) is before


def test_other_threads_leave_signals_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals(), raising_terminated():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
