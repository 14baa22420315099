"""An engine's processes end with the process that started it, however that ends.

vLLM's core notices no death of its parent: one that is killed would leave it, with its memory and
its GPU, for ever.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import psutil

THREAD = "parent watch"
LOOK_S = 1.0


def end_with(pid: int) -> None:
    """End this process, and the one between, once a process has died.

    pid: of the engine's parent. This process is the engine's core, or a worker that the core
        started.
    """
    parent = psutil.Process(pid)
    core = None if os.getppid() == pid else psutil.Process(os.getppid())
    threading.Thread(target=_watch, args=(parent, core), name=THREAD, daemon=True).start()


def _watch(parent: psutil.Process, core: psutil.Process | None) -> None:
    while _lives(parent):
        time.sleep(LOOK_S)
    if core is not None:
        with suppress(psutil.Error):
            core.kill()
    os._exit(1)


def _lives(process: psutil.Process) -> bool:
    """Whether it runs: not its id alone, and not as a zombie, for which nobody has waited yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
