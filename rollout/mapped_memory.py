"""Which file memory of this process is mapped from, so that another process can map it too.

Ray's object store is such a file: it has no name any more, but the raylet, an actor's parent, keeps
it open, and what is open has a path in /proc.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Mapping(NamedTuple):
    """Shared memory at addresses from `begin` to `end`, from byte `offset` of a file on."""

    begin: int
    end: int
    offset: int
    file: tuple[int, int]  # its device and inode


class FilePlace(NamedTuple):
    """A byte of a file that can be opened by `path`."""

    path: str
    offset: int


class MappedMemory:
    """The shared memory that this process has mapped now."""

    def __init__(self) -> None:
        self._mappings = list(_mappings())
        self._paths: dict[tuple[int, int], str] | None = None

    def place(self, begin: int, end: int) -> FilePlace | None:
        """Where the memory at these addresses is in a file; None where no such file is open."""
        for mapping in self._mappings:
            if mapping.begin <= begin and end <= mapping.end:
                if self._paths is None:
                    self._paths = {file: path for path, file in _open_files()}
                path = self._paths.get(mapping.file)
                offset = mapping.offset + begin - mapping.begin
                return FilePlace(path, offset) if path else None
        return None


def _mappings() -> Iterator[Mapping]:
    """By the lines of /proc/self/maps, as `7f00-7f80 rw-s 00000000 00:1b 2 /dev/shm/x`.

    In bytes: a name may be no UTF-8, and have what str takes for the end of a line.
    """
    maps = Path("/proc/self/maps")
    for line in maps.read_bytes().rstrip().split(b"\n") if maps.exists() else ():
        addresses, rights, offset, device, inode, *_ = line.split()
        if rights.endswith(b"s"):
            begin, end = (int(number, 16) for number in addresses.split(b"-"))
            major, minor = (int(number, 16) for number in device.split(b":"))
            yield Mapping(begin, end, int(offset, 16), (os.makedev(major, minor), int(inode)))


def _open_files() -> Iterator[tuple[str, tuple[int, int]]]:
    """Paths and files of what this process has open, and its parent, if it is the same user's."""
    for process in (os.getppid(), os.getpid()):
        folder = f"/proc/{process}/fd"
        with suppress(OSError):  # another user's
            for name in os.listdir(folder):
                with suppress(FileNotFoundError):  # closed meanwhile
                    status = os.stat(f"{folder}/{name}")
                    yield f"{folder}/{name}", (status.st_dev, status.st_ino)
