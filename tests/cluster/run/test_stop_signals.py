"""Signals: the first one ends a run, or asks it to end; no other disturbs how it does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

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


def test_none_raises_once_the_run_ends():
    with StopSignals() as signals:
        signals.end()
        send()


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
        signals.end()
        assert not signals.must_end(0.0, pytest.fail)
        send()
        assert not signals.must_end(60.0, lambda: asked.append(1))
        assert not signals.must_end(60.0, lambda: asked.append(1))
        send()
        assert signals.must_end(60.0, pytest.fail)
    assert asked == [1, 1]
    assert capsys.readouterr().err.count("SIGINT: the run ends within 60 s") == 1


def test_of_a_closed_terminal_both_the_kernel_and_the_shell_tell():
    with StopSignals() as signals:
        signals.end()
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
