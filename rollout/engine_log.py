"""The error behind vLLM's "see root cause above": what the engine's processes wrote to stderr.

They share the stderr of the process that starts them. In a rollout actor that is a log file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

MOST = 2**22  # last bytes of a log that are read
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
        try:
            with self.file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(self._begin, size - MOST))
                cause = root_cause(stream.read().decode(errors="replace"))
        except OSError:  # rotated or deleted
            return error
        words = cause or " ".join(POINTERS.sub("", error).split())
        return f"{words[:SHOWN]} (log: {self.file})"


def root_cause(log: str) -> str | None:
    """The error that ended the engine.

    Of lines with vLLM's prefix the first: of a chain, the error that came first. Of others the
    last, for they may be anybody's: an environment's that was handled long before.
    """
    lines = log.splitlines()
    engine = [PREFIX.sub("", line) for line in lines if PREFIX.match(line)]
    others = [line for line in lines if not PREFIX.match(line)]
    causes = [*errors(engine)][:1] or [*errors(others)][-1:]
    return causes[0] if causes else None


def errors(lines: Iterable[str]) -> Iterator[str]:
    """The last line of each traceback."""
    inside = False
    for line in lines:
        inside = inside or line.strip() == TRACEBACK
        if inside and ERROR.match(line):
            inside = False
            yield line.strip()
