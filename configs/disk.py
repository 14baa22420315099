"""Files that are on the disk once a call returns: after a loss of power they are whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP)  # of a folder, on some network file systems


def replace_file(file: Path, text: str) -> None:
    """Write a file that others may read, or write too, at any moment; its folder must be there.

    Whatever moment a crash comes at, it holds what it held before or all of the text.
    """
    with replacing(file) as stream:
        stream.write(text.encode())


@contextmanager
def replacing(file: Path) -> Iterator[BinaryIO]:
    """As `replace_file`, with what is written inside; after an error there it is as before."""
    draft = file.with_name(f"{file.name}.{uuid4().hex}")
    try:
        with draft.open("xb") as stream:
            yield stream
        to_disk(draft)
        os.replace(draft, file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    to_disk(file.parent)


def to_disk(*places: Path) -> None:
    """Have the kernel write files to the disk, and of folders which files they hold."""
    for place in places:
        number = os.open(place, os.O_RDONLY)
        try:
            os.fsync(number)
        except OSError as error:
            if not place.is_dir() or error.errno not in NO_SUCH_CALL:
                raise
        finally:
            os.close(number)
