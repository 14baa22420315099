"""A file in shared memory through which an actor hands weight buckets to its engine's process.

It has room for two buckets: one is written while the engine loads the other.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rollout.bucket import BucketHeader, PackedBucket, write


class BucketFile:
    """The file; `with` removes it at the end.

    Raises:
        OSError: there is no room for it; says how much was to be had.
    """

    def __init__(self, headers: Iterable[BucketHeader], folder: str | None = None) -> None:
        sizes = [-(-header.bytes // mmap.PAGESIZE) * mmap.PAGESIZE for header in headers]
        self._room = max(sizes)
        size = min(2, len(sizes)) * self._room
        folder = folder or _shared_memory()
        number, self._path = tempfile.mkstemp(prefix="cardinal-w-", dir=folder)
        try:
            os.posix_fallocate(number, 0, size)  # writing to memory that is not there would kill
        except OSError as error:
            Path(self._path).unlink()
            raise OSError(
                f"{folder} has no {size // 2**20} MiB for weights on their way to the engine: "
                f"{error.strerror}; cluster.sync_bucket_mib sets how many"
            ) from error
        finally:
            os.close(number)
        self._memory = np.memmap(self._path, np.uint8, mode="r+")

    def write(self, index: int, bucket: PackedBucket) -> dict[str, object]:
        """Write bucket number `index` over number `index` - 2; returns the engine's message."""
        offset = index % 2 * self._room
        write(bucket, self._memory[offset : offset + bucket.header.bytes])
        return {"path": self._path, "offset": offset, "header": bucket.header.to_dict()}

    def __enter__(self) -> BucketFile:
        return self

    def __exit__(self, *_: object) -> None:
        Path(self._path).unlink(missing_ok=True)


def _shared_memory() -> str:
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()
