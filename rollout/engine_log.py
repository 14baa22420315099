"""The error behind vLLM's "see root cause above": what the engine's processes wrote to stderr.

They share the stderr of the process that starts them. In a rollout actor that is a log file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

MOST = 2**22  # bytes of a log that are read
SHOWN = 300  # characters of an error
TRACEBACK = "Traceback (most recent call last):"
PREFIX = re.compile(r"^\((?:\w+ )*?\w+ pid=\d+\) (?:[A-Z]+ [\d-]+ [\d:]+ \[[^]]+\] ?)?")
ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Failure|Interrupt|Exit)\b(?:: .*)?$")
POINTERS = re.compile(r" *See (?:root cause|stack trace \(?)[^.]*?above\)?[^.]*\.")


class EngineLog:
    """This process's stderr, from where it stands now."""

    def __init__(self) -> None:
        try:
            self.file = Path(os.readlink("/proc/self/fd/2"))
            self._begin = self.file.stat().st_size if self.file.is_file() else None
        except OSError:  # no /proc
            self._begin = None

    def explain(self, error: str) -> str:
        """The error that vLLM's words point to and the log that holds it, where there is one."""
        if self._begin is None:
            return error
        with self.file.open("rb") as stream:
            stream.seek(self._begin)
            cause = first_error(stream.read(MOST).decode(errors="replace"))
        words = cause or " ".join(POINTERS.sub("", error).split())
        return f"{words[:SHOWN]} (log: {self.file})"


def first_error(log: str) -> str | None:
    """The last line of the first traceback in a log: of a chain, the error that came first."""
    inside = False
    for line in log.splitlines():
        text = PREFIX.sub("", line)
        inside = inside or text.strip() == TRACEBACK
        if inside and ERROR.match(text):
            return text.strip()
    return None
