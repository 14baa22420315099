"""Slots: processes that do a study's runs one after another, each with its own rollout pool.

A slot's death is the failure of its run alone. A signal to the study, and its death, interrupt its
slots; they hold a lock on the study's folder as long as they live.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.failures import BusyError, InUseError, RunFailure
from cluster.lasting_output import outlive_readers
from cluster.run.left_processes import end_left, process_state
from cluster.run.stop_signals import StopSignals
from configs.load import ConfigError
from configs.schema import RunConfig

if TYPE_CHECKING:  # Ray is imported in slots alone
    from cluster.driver.rollout_pool import RolloutPool

LOCK = ".lock"
FINISHED, BUSY = "finished", "others use what it needs: "
GRACE_S = 90.0  # for the slots of a study that died to take down Ray and engines
LOOK_S = 0.2  # between looks at whether another signal has come


@dataclass
class _Slot:
    process: SpawnProcess
    started: int  # as `process_state` has it
    jobs: Connection
    run: str | None = None


class Slots:
    """A context of up to `count` slots; what runs when an error passes is interrupted.

    folder: the study's, absolute. With several slots each writes to slotN.log in it.
    signals: those that the study gets; each after the first is passed on, as Ctrl-C.
    """

    def __init__(self, count: int, folder: Path, signals: StopSignals) -> None:
        self._count, self._folder, self._grace_s = count, folder, GRACE_S
        self._signals = signals
        self._slots: list[_Slot | None] = [None] * count

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, kind: type[BaseException] | None, *failure: object) -> None:
        if kind is None:
            with self._signals.asking():  # the report that follows can be interrupted again
                self._end()
        else:
            self._signals.hold()
            self._end()

    def _end(self) -> None:
        """Interrupt what runs, and wait for all; each further signal is passed on."""
        told = min(1, len(self._signals.received))  # the one that ended the study
        slots = [slot for slot in self._slots if slot is not None]
        for slot in slots:
            slot.jobs.close()  # an idle one ends by itself
        running = [slot for slot in slots if slot.run is not None]
        _interrupt(running)
        if running:
            names = ", ".join(str(slot.run) for slot in running)
            print(
                f"waiting at most {self._grace_s:g} s for {names} to end; another signal is "
                "passed on, and ends what still runs sooner",
                file=sys.stderr,
            )
        deadline = time.monotonic() + self._grace_s
        while (left := _living(slots)) and time.monotonic() < deadline:
            if len(self._signals.received) > told:
                told += 1
                _interrupt(left)
            left[0].process.join(LOOK_S)
        for slot in slots:
            assert slot.process.pid is not None
            slot.process.kill()
            end_left(slot.process.pid, slot.started, patience_s=0.0)

    @property
    def free(self) -> bool:
        """Whether a run can begin now."""
        return any(slot is None or slot.run is None for slot in self._slots)

    def begin(self, run: str, cfg: RunConfig, resume: bool) -> None:
        """Begin a run; see `free` for whether one can."""
        at = next(i for i, slot in enumerate(self._slots) if slot is None or slot.run is None)
        idle = self._slots[at]
        if idle is not None and not idle.process.is_alive():  # killed between two runs
            self._clear(at, idle)
        with self._signals.asking():  # none raises before a new slot is among those to be ended
            slot = self._slots[at] = self._slots[at] or self._start(at)
        slot.run = run
        self._grace_s = max(self._grace_s, GRACE_S + cfg.cluster.grace_s)
        with suppress(ConnectionError):  # it has died since: `wait` finds that
            slot.jobs.send((cfg, resume))

    def wait(self) -> tuple[str, str]:
        """The next run that ends: its name, and FINISHED, BUSY + why or 'failed: why'."""
        busy = {slot.jobs: at for at, slot in enumerate(self._slots) if slot and slot.run}
        jobs = wait(list(busy))[0]
        assert isinstance(jobs, Connection)
        slot = self._slots[busy[jobs]]
        assert slot is not None
        assert slot.run is not None
        run = slot.run
        try:
            status = str(jobs.recv())
        except (EOFError, ConnectionError):
            status = ""
        if status != FINISHED:  # it ends, so that nothing of a broken run is left for the next
            self._clear(busy[jobs], slot)
        slot.run = None  # not before: a signal meanwhile is to find what has to end
        return run, status or f"failed: its process ended with exit code {slot.process.exitcode}"

    def _clear(self, at: int, slot: _Slot) -> None:
        """End a slot, and what is left of it."""
        slot.process.join(GRACE_S)
        slot.process.kill()
        assert slot.process.pid is not None
        end_left(slot.process.pid, slot.started)
        self._slots[at] = None

    def _start(self, at: int) -> _Slot:
        processes = multiprocessing.get_context("spawn")
        here, there = processes.Pipe()
        log = self._folder / f"slot{at}.log" if self._count > 1 else None
        process = processes.Process(target=_work, args=(there, self._folder, log))
        with _interrupts_wait():
            process.start()
        there.close()
        assert process.pid is not None
        return _Slot(process, process_state(process.pid)[1], here)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits inside; in a process that is started there, until its `_leave_the_terminal`."""
    resource_tracker.ensure_running()  # whose own start would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_the_terminal() -> None:
    """An interrupt from the terminal reaches the study alone, which tells its slots."""
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _interrupt(slots: list[_Slot]) -> None:
    for slot in _living(slots):
        assert slot.process.pid is not None
        os.kill(slot.process.pid, signal.SIGINT)


def _living(slots: list[_Slot]) -> list[_Slot]:
    return [slot for slot in slots if slot.process.is_alive()]


def _work(jobs: Connection, folder: Path, log: Path | None) -> None:
    """A slot's life: runs until the study ends, a run fails or it is interrupted."""
    with suppress(KeyboardInterrupt):
        outlive_readers()
        _leave_the_terminal()
        _do_runs(jobs, folder, log)
    sys.stdout.flush()
    os._exit(0)  # threads of Ray may not let it end otherwise


def _do_runs(jobs: Connection, folder: Path, log: Path | None) -> None:
    from cluster.driver.rollout_pool import RolloutPool

    if log:
        sink = log.open("a", buffering=1)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    lock = (folder / LOCK).open()
    fcntl.flock(lock, fcntl.LOCK_SH)
    threading.Thread(target=_follow_parent, daemon=True).start()
    status = FINISHED
    with RolloutPool(demonstrations=True) as pool:
        while status == FINISHED:
            try:
                cfg, resume = jobs.recv()
            except (EOFError, ConnectionError):  # the study has ended
                break
            status = _attempt(cfg, resume, pool)
            with suppress(ConnectionError):
                jobs.send(status)


def _attempt(cfg: RunConfig, resume: bool, pool: RolloutPool) -> str:
    """Check as `cardinal train` does, and run; the other arms continue after one has failed."""
    from cluster.driver.train import train
    from cluster.preflight.check import check

    try:
        if not resume:
            check(cfg)
        code = train(cfg, resume, pool)
    except BusyError as error:
        return f"{BUSY}{error}"
    except (ConfigError, RunFailure) as error:
        return f"failed: {error}"
    except OSError as error:  # as the command line has it: a full disk
        return f"failed: {type(error).__name__}: {error}"
    return FINISHED if code == 0 else f"failed: exit code {code}"


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGINT)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a study's folder; slots of one that died a moment ago are waited for.

    Raises:
        InUseError: another study runs in it.
    """
    with (folder / LOCK).open("w") as lock:
        deadline = time.monotonic() + GRACE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InUseError(
                        f"{folder}: another `cardinal study` is running it; a study has one"
                    ) from None
            if deadline - time.monotonic() > GRACE_S - 1:
                print(
                    f"{folder}: waiting for the processes of another `cardinal study`",
                    file=sys.stderr,
                )
            time.sleep(1)
        fcntl.flock(lock, fcntl.LOCK_SH)  # as every slot will
        yield
