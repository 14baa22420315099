"""Slots: processes that do a study's runs one after another, each with its own rollout pool.

A slot's death is the failure of its run alone. The death of the study interrupts its slots; they
hold a lock on the study's folder as long as they live.
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
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.failures import BusyError, InUseError, RunFailure
from cluster.run.left_processes import end_left, process_state
from configs.load import ConfigError
from configs.schema import RunConfig

if TYPE_CHECKING:  # Ray is imported in slots alone
    from cluster.driver.rollout_pool import RolloutPool

LOCK = ".lock"
FINISHED, BUSY = "finished", "others use what it needs: "
GRACE_S = 90.0  # for the slots of a study that died to take down Ray and engines


@dataclass
class _Slot:
    process: SpawnProcess
    started: int  # as `process_state` has it
    jobs: Connection
    run: str | None = None


class Slots:
    """A context of up to `count` slots; what runs when an error passes is interrupted.

    folder: the study's, absolute. With several slots each writes to slotN.log in it.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self._count, self._folder, self._grace_s = count, folder, GRACE_S
        self._slots: list[_Slot | None] = [None] * count

    def __enter__(self) -> Slots:
        return self

    def __exit__(self, *failure: object) -> None:
        for slot in filter(None, self._slots):
            slot.jobs.close()  # an idle one ends by itself
            if slot.run is not None:
                assert slot.process.pid is not None
                os.kill(slot.process.pid, signal.SIGINT)
        for slot in filter(None, self._slots):
            slot.process.join(self._grace_s)
            slot.process.kill()

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
        run, slot.run = slot.run, None
        try:
            status = str(jobs.recv())
        except (EOFError, ConnectionError):
            status = ""
        if status != FINISHED:  # it ends, so that nothing of a broken run is left for the next
            self._clear(busy[jobs], slot)
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
        process.start()
        there.close()
        assert process.pid is not None
        return _Slot(process, process_state(process.pid)[1], here)


def _work(jobs: Connection, folder: Path, log: Path | None) -> None:
    """A slot's life: runs until the study ends, a run fails or it is interrupted."""
    from cluster.driver.rollout_pool import RolloutPool

    os.setpgrp()  # an interrupt from the terminal reaches the study, which tells its slots
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if log:
        sink = log.open("a", buffering=1)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    lock = (folder / LOCK).open()
    fcntl.flock(lock, fcntl.LOCK_SH)
    threading.Thread(target=_follow_parent, daemon=True).start()
    status = FINISHED
    with suppress(KeyboardInterrupt), RolloutPool(demonstrations=True) as pool:
        while status == FINISHED:
            try:
                cfg, resume = jobs.recv()
            except (EOFError, ConnectionError):  # the study has ended
                break
            status = _attempt(cfg, resume, pool)
            with suppress(ConnectionError):
                jobs.send(status)
    sys.stdout.flush()
    os._exit(0)  # threads of Ray may not let it end otherwise


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
