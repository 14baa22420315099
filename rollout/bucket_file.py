"""A file in shared memory through which an actor hands weight buckets to its engine's process.

It has room for two buckets: one is written while the engine loads the other.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rollout.bucket import BucketHeader, PackedBucket, write


class BucketFile:
    """The file; `with` removes it at the end.

    Raises:
        OSError: there is no room for it.
    """

    def __init__(self, headers: Sequence[BucketHeader]) -> None:
        pages = [-(-header.bytes // mmap.PAGESIZE) * mmap.PAGESIZE for header in headers]
        self._rooms = [max(pages[::2]), max(pages[1::2], default=0)]
        size, folder = sum(self._rooms), _shared_memory()
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(
                f"{folder} has {free / 2**20:.0f} MiB free, and weights on their way to the engine "
                f"need {size / 2**20:.0f}; cluster.sync_bucket_mib sets how many"
            )
        number, self._path = tempfile.mkstemp(prefix="cardinal-w-", dir=folder)
        self._file = os.fdopen(number, "wb")
        self._file.truncate(size)

    def write(self, index: int, bucket: PackedBucket) -> None:
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


def _shared_memory() -> str:
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
