"""The processes that a run's driver started on its machine, known by a mark, after its death too.

Input: a driver's process id and start. Output: none of its processes is there any more, so that
their memory, GPUs and ports are free for who goes on with the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "CARDINAL_DRIVER"
ENDING_S = 5.0  # nearly all end in 3 once they miss their parent; Ray's agents would take 60
LOOK_S = 0.5
GONE_S = 10.0  # for a killed one


def process_state(pid: int) -> tuple[str, int]:
    """A process's state, a letter, and its start in clock ticks since the boot: fields 3 and 22.

    Raises:
        FileNotFoundError, ProcessLookupError: there is no such process.
    """
    words = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    after_name = words.rpartition(")")[2].split()  # the name may hold spaces and brackets
    return after_name[0], int(after_name[19])


def mark_own() -> None:
    """Mark all that this process starts from now on as its own."""
    os.environ["SPT_NOENV"] = "1"  # Ray and vLLM would write their titles over it
    os.environ[MARK] = _mark(os.getpid(), process_state(os.getpid())[1])


def end_left(pid: int, started: int, patience_s: float = ENDING_S) -> None:
    """Wait for the processes of a dead driver, and end those that stay.

    Args:
        pid: the driver's, on this machine.
        started: its start, as `process_state` has it.
        patience_s: for them to end by themselves.
    """
    deadline = time.monotonic() + patience_s
    mark = _mark(pid, started)
    left = list(_marked(mark))
    if left:
        print(f"waiting for {len(left)} processes of process {pid}, which died", file=sys.stderr)
    while left and time.monotonic() < deadline:
        time.sleep(LOOK_S)
        left = list(_marked(mark))
    for process in left:
        with suppress(psutil.NoSuchProcess):
            print(f"ended {process.name()} (process {process.pid}), which stayed", file=sys.stderr)
            process.kill()
    psutil.wait_procs(left, timeout=GONE_S)


def end_own() -> None:
    """End by force all that this process has started since `mark_own`."""
    mark = _mark(os.getpid(), process_state(os.getpid())[1])
    deadline = time.monotonic() + GONE_S
    while (own := list(_marked(mark))) and time.monotonic() < deadline:  # they may start others
        for process in own:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(own, timeout=LOOK_S)


def _mark(pid: int, started: int) -> str:
    return f"{pid}-{started}"


def _marked(mark: str) -> Iterator[psutil.Process]:
    """Processes of this user that carry a mark and are not dead yet."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get(MARK) == mark
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                yield process
