"""A file in shared memory through which an actor hands weight buckets to its engine's process.

It has room for two buckets: one is written while the engine loads the other. Its lock says that
its actor lives: the file of one that was killed goes when the next one is made.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from rollout.bucket import AnyBucket, BucketHeader, write

PREFIX = "cardinal-w-"


class BucketFile:
    """The file; `with` removes it at the end.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, headers: Sequence[BucketHeader]) -> None:
        pages = [-(-header.bytes // mmap.PAGESIZE) * mmap.PAGESIZE for header in headers]
        self._rooms = [max(pages[::2]), max(pages[1::2], default=0)]
        size, folder = sum(self._rooms), _shared_memory()
        _remove_orphans(folder)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(
                f"{folder} has {free / 2**20:.0f} MiB free, and weights on their way to the engine "
                f"need {size / 2**20:.0f}; cluster.sync_bucket_mib sets how many"
            )
        self._file, self._path = _locked_file(folder)
        self._file.truncate(size)

    def write(self, index: int, bucket: AnyBucket) -> None:
        """Write bucket number `index` over number `index` - 2.

        It is written and not mapped: new pages cost half of that, and where there are none is an
        error, not the end of the process.
        """
        write(bucket, self._file, self._begin(index))

    def message(self, index: int, header: BucketHeader) -> dict[str, object]:
        """The engine's message about bucket number `index`."""
        return {"path": self._path, "offset": self._begin(index), "header": header.to_dict()}

    def _begin(self, index: int) -> int:
        return index % 2 * self._rooms[0]

    def __enter__(self) -> BucketFile:
        return self

    def __exit__(self, *_: object) -> None:
        Path(self._path).unlink(missing_ok=True)
        self._file.close()


def _locked_file(folder: str) -> tuple[BinaryIO, str]:
    """A new file, and its path; another actor may take it for an orphan before it is locked."""
    while True:
        number, path = tempfile.mkstemp(prefix=PREFIX, dir=folder)
        fcntl.flock(number, fcntl.LOCK_EX)
        if os.fstat(number).st_nlink:
            return os.fdopen(number, "wb"), path
        os.close(number)


def _remove_orphans(folder: str) -> None:
    """Remove the files that nobody has locked: their actors were killed while weights loaded."""
    for path in Path(folder).glob(f"{PREFIX}*"):
        with suppress(OSError), path.open("rb") as file:  # another user's, gone, or locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _shared_memory() -> str:
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
