"""Output to a terminal that may be closed while a command goes on: then it goes nowhere.

Else the next word, of whichever part, would end the run with an input/output error.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


class TerminalOutput(io.FileIO):
    """The raw output of a descriptor; from the terminal's end on nothing is written to it."""

    def write(self, data: Buffer, /) -> int:
        """Write; returns how many bytes were taken."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        return memoryview(data).nbytes


def outlive_the_terminal() -> None:
    """Have standard output and error do so, where they are a terminal."""
    sys.stdout, sys.stderr = _outliving(sys.stdout), _outliving(sys.stderr)


def _outliving(stream: TextIO) -> TextIO:
    if stream is None or not stream.isatty():  # it is None where it was closed (`>&-`)
        return stream
    raw = TerminalOutput(stream.fileno(), "wb", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )
