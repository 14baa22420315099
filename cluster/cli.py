"""The program `cardinal`: its command line, imported where a signal is one line and a code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from cluster.exit_codes import ExitCode, say
from cluster.lasting_output import outlive_readers
from cluster.run.last_resort import ray_is_asked
from cluster.run.stop_signals import Terminated, raising_terminated


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        with raising_terminated():
            from cluster.command_line import run  # a second of imports, in which signals may come
    except Terminated as signal:
        return say(f"ended by {signal}", ExitCode.TAKEN_AWAY)
    except KeyboardInterrupt:
        return say("interrupted", ExitCode.INTERRUPTED)
    return run(arguments)


def program() -> NoReturn:
    """Run the command of `sys.argv` and end."""
    outlive_readers()
    try:
        code = main()
    except SystemExit as end:  # argparse's own way out
        code = 0 if end.code is None else int(end.code)
    try:
        if sys.stdout is not None:  # it is where it was closed (`>&-`)
            sys.stdout.flush()
    except OSError:  # a closed pipe; Python would print that it could not flush, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code in (ExitCode.INTERRUPTED, ExitCode.TAKEN_AWAY) or ray_is_asked():
        os._exit(code)  # threads of Ray may not let it end otherwise
    sys.exit(code)


if __name__ == "__main__":
    program()
