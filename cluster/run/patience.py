"""A storage that is away for a moment, as one on a network may be, ends no run.

Whoever looks at the run folder for as long as the run lasts bears its errors for a while. Not that
it is full: that does not pass by itself.
"""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cluster.run.lease import STALE_S
from rollout.awake import Awake

FULL = (errno.ENOSPC, errno.EDQUOT)
PATIENCE_S = STALE_S  # after which another machine may take the run folder over
AGAIN_S = 0.5
T = TypeVar("T")


def passes(error: OSError) -> bool:
    """Whether a storage may work a moment later."""
    return error.errno not in FULL


class Patience:
    """Bears errors of a folder's storage until it has been away for too long."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, Awake(clock)
        self._since: float | None = None  # when it was found away; None while it is not

    @contextmanager
    def look(self) -> Iterator[None]:
        """What is inside ends where the storage is away; the caller looks again a moment later.

        Raises:
            OSError: it is full, or has been away for PATIENCE_S.
        """
        try:
            yield
        except OSError as error:
            now = self._clock()
            if self._since is None:
                self._since = now
                print(f"{self._folder}: away, {error}; it is looked at again", file=sys.stderr)
            if not passes(error) or now - self._since >= PATIENCE_S:
                raise
        else:
            self._since = None

    def insist(self, work: Callable[[], T]) -> T:
        """The result of work, which is tried again while the storage is away.

        Raises:
            OSError: as `look`.
        """
        while True:
            with self.look():
                return work()
            time.sleep(AGAIN_S)
