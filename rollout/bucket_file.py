"""How an actor hands weight buckets to its engine's process: by their places in files.

What lies in Ray's object store is loaded from there. Other buckets pass through a file with room
for two: one is written while the engine loads the other. Its lock says that its actor lives: the
file of one that was killed goes when the next one is made.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rollout.bucket import ALIGN, AnyBucket, BucketHeader, PackedBucket, write
from rollout.mapped_memory import FilePlace, MappedMemory

PREFIX = "cardinal-w-"


class BucketFile:
    """The buckets of an update; `with` removes their file, if they need one, at the end.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, buckets: Sequence[AnyBucket]) -> None:
        memory = MappedMemory()
        self._buckets = buckets
        self._messages = [_in_place(bucket, memory) for bucket in buckets]
        self._file: BinaryIO | None = None
        self._path = ""
        written = [index for index, message in enumerate(self._messages) if message is None]
        pages = [-(-buckets[i].header.bytes // mmap.PAGESIZE) * mmap.PAGESIZE for i in written]
        if not written:
            return
        rooms = [max(pages[::2]), max(pages[1::2], default=0)]
        self._make_file(sum(rooms))
        for number, index in enumerate(written):
            header, begin = buckets[index].header, number % 2 * rooms[0]
            self._messages[index] = _message(FilePlace(self._path, begin), header, lasts=False)

    def _make_file(self, size: int) -> None:
        folder = _shared_memory()
        _remove_orphans(folder)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(
                f"{folder} has {free / 2**20:.0f} MiB free, and weights on their way to the engine "
                f"need {size / 2**20:.0f}; cluster.sync_bucket_mib sets how many"
            )
        self._file, self._path = _locked_file(folder)
        self._file.truncate(size)

    def write(self, index: int) -> None:
        """Write bucket number `index`, unless it lasts, over the last but one that was written.

        It is written and not mapped: new pages cost half of that, and where there are none is an
        error, not the end of the process.
        """
        message = self.message(index)
        if not message["lasts"]:
            assert self._file is not None
            write(self._buckets[index], self._file, message["offset"])

    def message(self, index: int) -> dict[str, Any]:
        """The engine's message about bucket number `index`."""
        message = self._messages[index]
        assert message is not None
        return message

    def __enter__(self) -> BucketFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            Path(self._path).unlink(missing_ok=True)
            self._file.close()


class MappedFiles:
    """The files of an engine's updates. One that lasts stays mapped: its pages come once."""

    def __init__(self) -> None:
        self._lasting: dict[tuple[int, int], NDArray[np.uint8]] = {}  # by device and inode
        self._mapped: dict[str, NDArray[np.uint8]] = {}  # those of this update, by path
        self._opened = ExitStack()

    def read(self, path: str, begin: int, size: int, lasts: bool) -> NDArray[np.uint8]:
        """Bytes of a file, in place, and only to be read: who writes to them ends its process.

        A writable mapping, though private, would count whole, with all of the object store, against
        what memory the system lets processes reserve, and would keep a written page for ever.
        """
        if path not in self._mapped:
            file = self._opened.enter_context(Path(path).open("rb"))  # noqa: SIM115 - it is one
            status = os.fstat(file.fileno())
            key = status.st_dev, status.st_ino
            memory = self._lasting.get(key)
            if memory is None:
                memory = np.memmap(file, np.uint8, mode="r")
            if lasts:
                self._lasting[key] = memory
            self._mapped[path] = memory
        return self._mapped[path][begin : begin + size]

    def close(self) -> None:
        """End an update; a file that was not in it is let go."""
        used = {id(memory) for memory in self._mapped.values()}
        self._lasting = {key: m for key, m in self._lasting.items() if id(m) in used}
        self._mapped.clear()
        self._opened.close()


def _in_place(bucket: AnyBucket, memory: MappedMemory) -> dict[str, Any] | None:
    """The message about a bucket that lies in a lasting file as a whole; None if it does not."""
    parts = [part for part in bucket.parts if part.nbytes] if type(bucket) is PackedBucket else []
    if not parts:
        return None
    begins = [part.ctypes.data if part.nbytes else 0 for part in bucket.parts]
    begin = min(part.ctypes.data for part in parts)
    end = max(part.ctypes.data + part.nbytes for part in parts)
    offsets = [max(address - begin, 0) for address in begins]
    place = memory.place(begin, end)
    if place is None or any(offset % ALIGN for offset in offsets):
        return None
    header = replace(bucket.header, offsets=offsets, bytes=end - begin)
    return _message(place, header, lasts=True)


def _message(place: FilePlace, header: BucketHeader, lasts: bool) -> dict[str, Any]:
    return {**place._asdict(), "header": header.to_dict(), "lasts": lasts}


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
