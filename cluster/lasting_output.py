"""Output that may lose its reader while a command goes on: then it goes nowhere.

Else the next word, of whichever part, would end the run with an input/output error: of standard
output where the terminal is closed, of standard error whoever read it. Ctrl-C ends `tee` too.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

READERLESS = (errno.EIO, errno.EPIPE)  # a terminal's, a pipe's: for good


class LastingOutput(io.FileIO):
    """The raw output of a descriptor, of which some errors are borne.

    borne: the numbers of those. From one of READERLESS on nothing is written to it; another, as
        of a full disk, loses what was to be written.
    """

    borne: Collection[int] = ()

    def write(self, data: Buffer, /) -> int:
        """Write; returns how many bytes were taken."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in self.borne:
                raise
            gone = error.errno in READERLESS
        if gone:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        return memoryview(data).nbytes


def outlive_readers() -> None:
    """Have standard error do so, and standard output where it is a terminal.

    Who reads standard output by a pipe is missed by `report/terminal.py` and `report/progress.py`.
    """
    if sys.stdout is not None and sys.stdout.isatty():  # it is None where it was closed (`>&-`)
        sys.stdout = _lasting(sys.stdout, (errno.EIO,))
    if sys.stderr is not None:
        sys.stderr = _lasting(sys.stderr, errno.errorcode)


def _lasting(stream: TextIO, borne: Collection[int]) -> TextIO:
    raw = LastingOutput(stream.fileno(), "wb", closefd=False)
    raw.borne = borne
    return io.TextIOWrapper(
        io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True
    )
