"""The end by force, of this process and of all that it has started: where its own end hangs.

Whoever waits in Ray may wait for ever, and hear no signal meanwhile: so a thread watches.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import NoReturn

from cluster.exit_codes import ExitCode, say
from cluster.run.left_processes import end_own

AGAIN_S = 5.0  # for who waits to see that nothing is left of what it waits for
GROUP_THREAD = "learner group"  # asks Ray until the group has ended
WRITE_S = 2.0  # for who reads what is written
# The last words of a process whose work is done: what hangs is no failure.
DONE = ("all is done and saved; what stayed was ended by force", ExitCode.DONE)


def ray_is_asked() -> bool:
    """Whether a thread still waits in Ray for the learner group.

    Under it a shutdown, as Python's own end makes one too, crashes the process (SIGSEGV).
    """
    return any(thread.name == GROUP_THREAD for thread in threading.enumerate())


def end_at_once(line: str, code: ExitCode) -> NoReturn:
    """End all that this process has started, and the process, whatever it does meanwhile."""
    end_own()
    _try(partial(say, line, code), *(s.flush for s in (sys.stdout, sys.stderr) if s is not None))
    os._exit(code)


def tell(line: str) -> None:
    """Print a line on stderr; that nobody reads it stops nobody."""
    _try(partial(print, line, file=sys.stderr))


def _try(*writes: Callable[[], object]) -> None:
    """What writes, each for itself: into a full pipe that nobody empties one writes for ever."""

    def attempt(write: Callable[[], object]) -> None:
        with suppress(OSError, ValueError):  # a broken pipe; a stream that was closed
            write()

    threads = [threading.Thread(target=attempt, args=(write,), daemon=True) for write in writes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WRITE_S)


@contextmanager
def within(seconds: float, what: str, line: str, code: ExitCode) -> Iterator[None]:
    """What is inside takes no longer.

    Args:
        seconds: from now on; then all that this process has started is ended.
        what: is to end, for the sentence.
        line: what the process says last where even that does not help.
        code: its exit code then.
    """
    over = threading.Event()

    def watch() -> None:
        if over.wait(seconds):
            return
        tell(f"{what} did not end within {seconds:g} s: they are killed")
        end_own()
        if not over.wait(AGAIN_S):
            end_at_once(line, code)

    threading.Thread(target=watch, name="last resort", daemon=True).start()
    try:
        yield
    finally:
        over.set()
