"""Slots: runs one after another in processes of their own, whose ends are distinguished."""

import fcntl
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from cluster.failures import ClusterBusyError, InUseError, RunFailure
from cluster.run.left_processes import process_state
from cluster.run.stop_signals import StopSignals
from cluster.study import slots as module
from cluster.study.slots import BUSY, FINISHED, LOCK, Slots, alone
from configs.load import ConfigError, load

WORK = module._work


def fake_work(jobs, folder, log):
    """In the place of `_work`: does what the configuration's name says, without Ray."""
    blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with suppress(KeyboardInterrupt):
        module._leave_the_terminal()
        assert blocked, "it was interrupted in the terminal's group"
        assert os.getpgrp() == os.getpid()
        do_runs(jobs, folder, log)


def do_runs(jobs, folder, log):
    (folder / f"begun{os.getpid()}").write_text(str(log))
    while True:
        try:
            word, resume = jobs.recv()
        except EOFError:
            return
        if word == "die":
            os._exit(7)
        if word == "hang":
            (folder / "hangs").touch()
            try:
                time.sleep(600)
            except KeyboardInterrupt:
                (folder / "interrupted").touch()
                sys.exit(0)
        if word == "stubborn":
            for name in ("first", "second"):
                (folder / f"before {name}").touch()
                try:
                    time.sleep(600)
                except KeyboardInterrupt:
                    (folder / name).touch()
            sys.exit(0)
        if word == "slow to end":
            jobs.send(FINISHED)
            with suppress(EOFError):
                jobs.recv()
            (folder / "ends").touch()
            time.sleep(600)
        if word == "deaf":
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            (folder / "deaf").touch()
            time.sleep(600)
        status = {"busy": f"{BUSY}no GPU", "fail": "failed: lost"}.get(word, FINISHED)
        (folder / f"{word}{resume}").touch()
        jobs.send(status)
        if status != FINISHED:
            return


class Word(str):
    """As far as a slot reads a run's configuration; it says what the run does."""

    cluster = SimpleNamespace(grace_s=60.0)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    monkeypatch.setattr(module, "_work", fake_work)


def begun(folder):
    """How many processes there were, by their logs."""
    return sorted(file.read_text() for file in folder.glob("begun*"))


def test_one_slot_does_run_after_run_in_one_process(tmp_path):
    with Slots(1, tmp_path, StopSignals()) as slots:
        for name, resume in (("first", False), ("second", True)):
            assert slots.free
            slots.begin(f"arm/{name}", Word(name), resume)
            assert not slots.free
            assert slots.wait() == (f"arm/{name}", FINISHED)
        process = slots._slots[0].process
    assert begun(tmp_path) == ["None"]  # one process, whose words go to the terminal
    assert (tmp_path / "firstFalse").exists()
    assert (tmp_path / "secondTrue").exists()
    assert process.exitcode == 0  # it ended by itself


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("busy", f"{BUSY}no GPU"),
        ("fail", "failed: lost"),
        ("die", "failed: its process ended with exit code 7"),
    ],
)
def test_after_a_run_that_did_not_end_well_the_next_gets_a_new_process(tmp_path, word, status):
    with Slots(1, tmp_path, StopSignals()) as slots:
        slots.begin("arm/one", Word(word), False)
        assert slots.wait() == ("arm/one", status)
        assert slots.free
        slots.begin("arm/two", Word("fine"), False)
        assert slots.wait() == ("arm/two", FINISHED)
    assert len(begun(tmp_path)) == 2


def test_what_a_dead_slot_left_is_gone_before_the_next_begins(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(module, "end_left", lambda *process, **_: ended.append(process))
    with Slots(1, tmp_path, StopSignals()) as slots:
        slots.begin("arm/one", Word("fine"), False)
        slots.wait()
        assert ended == []
        process = slots._slots[0].process
        own = process.pid, process_state(process.pid)[1]
        slots.begin("arm/two", Word("die"), False)
        slots.wait()
        assert ended == [own]


def broken_study(slots, folder):
    """Two runs, one of which still runs when the study breaks."""
    with slots:
        slots.begin("arm/slow", Word("hang"), False)
        assert slots.free
        slots.begin("arm/quick", Word("fine"), False)
        assert not slots.free
        assert slots.wait() == ("arm/quick", FINISHED)  # whichever ends first
        until(folder / "hangs")
        raise RuntimeError("the study")


def until(file):
    deadline = time.monotonic() + 200
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_slot_that_dies_between_two_runs_is_replaced(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(module, "end_left", lambda *process, **_: ended.append(process))
    with Slots(1, tmp_path, StopSignals()) as slots:
        slots.begin("first", Word("first"), False)
        assert slots.wait() == ("first", FINISHED)
        idle = slots._slots[0]
        idle.process.kill()
        idle.process.join()
        slots.begin("second", Word("second"), False)
        assert slots.wait() == ("second", FINISHED)
        assert ended == [(idle.process.pid, idle.started)]
    assert len(begun(tmp_path)) == 2


def test_an_error_interrupts_what_runs_and_nothing_else(tmp_path):
    slots = Slots(2, tmp_path, StopSignals())
    with pytest.raises(RuntimeError, match="the study"):
        broken_study(slots, tmp_path)
    assert (tmp_path / "interrupted").exists()
    assert begun(tmp_path) == [str(tmp_path / f"slot{at}.log") for at in (0, 1)]
    assert all(slot.process.exitcode == 0 for slot in slots._slots)


def send():
    os.kill(os.getpid(), signal.SIGINT)


def interrupted(slots, folder, word, begun, error=None):
    """A signal, or an error, ends a study with one run; a signal comes once a file is there."""

    def again():
        until(folder / begun)
        send()

    with slots:
        slots.begin("arm/one", Word(word), False)
        until(folder / ("deaf" if word == "deaf" else "before first"))
        threading.Thread(target=again, daemon=True).start()
        if error is not None:
            raise error
        send()
        time.sleep(600)


@pytest.mark.parametrize("error", [None, RuntimeError("the study")])
def test_each_further_signal_is_passed_on_and_it_says_what_it_waits_for(tmp_path, capsys, error):
    with StopSignals() as signals:
        slots = Slots(1, tmp_path, signals)
        with pytest.raises(KeyboardInterrupt if error is None else RuntimeError):
            interrupted(slots, tmp_path, "stubborn", "before second", error)
        assert len(signals.received) == (2 if error is None else 1)
    assert (tmp_path / "second").exists()
    assert capsys.readouterr().err == (
        "waiting at most 150 s for arm/one to end; another signal is passed on, and ends what "
        "still runs sooner\n"
    )
    assert slots._slots[0].process.exitcode == 0


def test_a_slot_that_does_not_end_is_ended_with_all_that_it_left(tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(module, "end_left", lambda *process, **how: ended.append((process, how)))
    monkeypatch.setattr(module, "GRACE_S", 0.5)
    monkeypatch.setattr(Word, "cluster", SimpleNamespace(grace_s=0.5))
    with StopSignals() as signals:
        slots = Slots(1, tmp_path, signals)
        with pytest.raises(KeyboardInterrupt):
            interrupted(slots, tmp_path, "deaf", "deaf")
    (slot,) = slots._slots
    slot.process.join(10)
    assert slot.process.exitcode == -signal.SIGKILL
    assert ended == [((slot.process.pid, slot.started), {"patience_s": 0.0})]


def test_a_study_that_has_ended_well_can_be_interrupted_too(tmp_path):
    """While its idle slots end, and in the report that follows."""

    def once_it_ends():
        until(tmp_path / "ends")
        send()

    def finish(slots):
        with slots:
            slots.begin("arm/one", Word("slow to end"), False)
            assert slots.wait() == ("arm/one", FINISHED)
            threading.Thread(target=once_it_ends, daemon=True).start()

    with StopSignals() as signals:
        slots = Slots(1, tmp_path, signals)
        with pytest.raises(KeyboardInterrupt):
            finish(slots)
    assert slots._slots[0].process.exitcode == 0
    with StopSignals() as signals:
        with Slots(1, tmp_path, signals):
            pass
        with pytest.raises(KeyboardInterrupt):
            send()


def test_what_a_dead_slot_left_is_ended_though_a_signal_comes_meanwhile(tmp_path, monkeypatch):
    ended = []

    def end_left(*process, patience_s=60.0):
        ended.append((process, patience_s))
        if patience_s:
            send()
            time.sleep(600)

    monkeypatch.setattr(module, "end_left", end_left)

    def run(slots):
        with slots:
            slots.begin("arm/one", Word("die"), False)
            slots.wait()

    with StopSignals() as signals:
        slots = Slots(1, tmp_path, signals)
        with pytest.raises(KeyboardInterrupt):
            run(slots)
    own = (slots._slots[0].process.pid, slots._slots[0].started)
    assert ended == [(own, 60.0), (own, 0.0)]


def test_a_signal_while_a_slot_starts_finds_it_among_those_that_end(tmp_path, monkeypatch):
    start = Slots._start

    def interrupted_start(slots, at):
        slot = start(slots, at)
        send()
        return slot

    def run(slots):
        with slots:
            slots.begin("arm/one", Word("hang"), False)

    monkeypatch.setattr(Slots, "_start", interrupted_start)
    with StopSignals() as signals:
        slots = Slots(1, tmp_path, signals)
        with pytest.raises(KeyboardInterrupt):
            run(slots)
    assert slots._slots[0].process.exitcode == 0


def test_a_slot_outlives_the_terminal(monkeypatch, tmp_path):
    """Else its last words, as of the signal that a closed terminal sends, would end its run."""
    done = []
    for name in ("outlive_readers", "_leave_the_terminal"):
        monkeypatch.setattr(module, name, lambda name=name: done.append(name))
    monkeypatch.setattr(module, "_do_runs", lambda *arguments: done.append("runs"))
    monkeypatch.setattr(module.os, "_exit", done.append)
    WORK(None, tmp_path, None)
    assert done == ["outlive_readers", "_leave_the_terminal", "runs", 0]


def test_an_interrupt_while_a_slot_starts_waits_until_it_can_be_told(tmp_path, capfd):
    """Of the imports of a process that starts Python would print a traceback into the terminal."""
    slots = Slots(1, tmp_path, StopSignals())
    with slots:
        slots.begin("arm/one", Word("hang"), False)
        process = slots._slots[0].process
        os.kill(process.pid, signal.SIGINT)
        process.join(200)
    assert process.exitcode == 0
    assert "Traceback" not in capfd.readouterr().err
    assert not (tmp_path / "hangs").exists()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def raises(error):
    def fail(*arguments):
        raise error

    return fail


@pytest.mark.parametrize(
    ("train", "status"),
    [
        (lambda *arguments: 0, FINISHED),
        (lambda *arguments: 3, "failed: exit code 3"),
        (raises(ClusterBusyError("no GPU is free")), f"{BUSY}no GPU is free"),
        (raises(InUseError("memory is short")), f"{BUSY}memory is short"),
        (raises(RunFailure("an engine was lost")), "failed: an engine was lost"),
        (raises(ConfigError("seed: no")), "failed: seed: no"),
        (raises(OSError("no disk")), "failed: OSError: no disk"),
    ],
)
def test_how_a_run_ended_in_words(monkeypatch, train, status):
    checked = []
    monkeypatch.setattr("cluster.driver.train.train", train)
    monkeypatch.setattr("cluster.preflight.check.check", checked.append)
    cfg = load("gp_l_debug")
    assert module._attempt(cfg, False, None) == status
    assert checked == [cfg]
    assert module._attempt(cfg, True, None) == status  # what is resumed was checked once
    assert checked == [cfg]


def test_a_run_that_the_check_refuses_does_not_begin(monkeypatch):
    monkeypatch.setattr("cluster.preflight.check.check", raises(ConfigError("seed: no")))
    monkeypatch.setattr("cluster.driver.train.train", raises(AssertionError("it began")))
    assert module._attempt(load("gp_l_debug"), False, None) == "failed: seed: no"


def test_an_error_that_nobody_expects_is_not_swallowed(monkeypatch):
    monkeypatch.setattr("cluster.preflight.check.check", lambda cfg: None)
    monkeypatch.setattr("cluster.driver.train.train", raises(KeyError("a bug")))
    with pytest.raises(KeyError, match="a bug"):
        module._attempt(load("gp_l_debug"), False, None)


def test_a_study_has_its_folder_for_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("cluster.study.slots.GRACE_S", 0.0)
    with (
        alone(tmp_path),
        pytest.raises(ConfigError, match="another `cardinal study` is running it"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):
        pass


def test_slots_that_a_dead_study_left_are_waited_for(tmp_path, capsys, monkeypatch):
    (tmp_path / LOCK).touch()
    left = (tmp_path / LOCK).open()
    fcntl.flock(left, fcntl.LOCK_SH)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            left.close()  # its last process has ended

    clock = SimpleNamespace(monotonic=lambda: float(len(waited)), sleep=sleep)
    monkeypatch.setattr(module, "time", clock)
    with alone(tmp_path), (tmp_path / LOCK).open() as mine:
        fcntl.flock(mine, fcntl.LOCK_SH | fcntl.LOCK_NB)  # a slot of this study
    assert waited == [1, 1]
    sentence = f"{tmp_path}: waiting for the processes of another `cardinal study`"
    assert sentence in capsys.readouterr().err
