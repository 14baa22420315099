"""The exit codes of `cardinal`, which a scheduler reads; docs/cluster.md has them as a table."""

from __future__ import annotations

import sys
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended.

    TAKEN_AWAY is EX_TEMPFAIL of sysexits.h: also where others use what a run needs. OUT_OF_MEMORY
    is ENOMEM; 130 is any shell's code of Ctrl-C.
    """

    DONE = 0
    FAILED = 1
    REFUSED = 2
    OUT_OF_MEMORY = 12
    TAKEN_AWAY = 75
    INTERRUPTED = 130


def say(line: str, code: ExitCode) -> int:
    """Tell how a command ended, in one line on stderr; returns its code."""
    print(f"cardinal: {line}", file=sys.stderr)
    return code
