"""Processes that the kernel ends for lack of memory, which no other sign tells from any death."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

RECENT_S = 60.0  # from a kill until the loss that it makes ends a run
# Of this container where it has an account of its own; else of the whole machine since its start.
COUNTERS = ("/sys/fs/cgroup/memory.events", "/proc/vmstat")


class MemoryKills:
    """Knows whether there was one lately: a neighbour's of last week explains nothing."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks = deque([(clock(), killed_for_memory())])

    def look(self) -> None:
        """Take note of how many there are now."""
        now = self._clock()
        self._looks.append((now, killed_for_memory()))
        while len(self._looks) > 1 and self._looks[1][0] <= now - RECENT_S:
            self._looks.popleft()

    def recent(self) -> bool:
        """Whether there was one within RECENT_S before the last look, or since."""
        return killed_for_memory() > self._looks[0][1]


def killed_for_memory() -> int:
    """How many there were, by the first of COUNTERS that is there."""
    for counters in map(Path, COUNTERS):
        try:
            text = counters.read_text()
        except OSError:
            continue
        if found := re.search(r"^oom_kill (\d+)$", text, re.MULTILINE):
            return int(found[1])
    return 0
