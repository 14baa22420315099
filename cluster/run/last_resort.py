"""The end by force, of this process and of all that it has started: where its own end hangs.

Whoever waits in Ray may wait for ever, and hear no signal meanwhile: so a thread watches.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from cluster.exit_codes import ExitCode, say
from cluster.run.left_processes import end_own

AGAIN_S = 5.0  # for who waits to see that nothing is left of what it waits for


def end_at_once(line: str, code: ExitCode) -> NoReturn:
    """End all that this process has started, and the process, whatever it does meanwhile."""
    end_own()
    say(line, code)
    os._exit(code)


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
        print(f"{what} did not end within {seconds:g} s: they are killed", file=sys.stderr)
        end_own()
        if not over.wait(AGAIN_S):
            end_at_once(line, code)

    threading.Thread(target=watch, name="last resort", daemon=True).start()
    try:
        yield
    finally:
        over.set()
