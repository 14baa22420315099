"""How long processes waited for a processor, by the kernel: what a busy machine adds to a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NS = 1e9


class Waits:
    """Of processes one after another of which a piece of news takes its way."""

    def __init__(self, pids: Sequence[int], proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._begin = {pid: self._delays(pid) for pid in pids}
        self._looks = [(time.time(), 0.0)]

    def look(self) -> None:
        """Note what they have waited so far, all of them together."""
        seconds = 0.0
        for pid, begin in self._begin.items():
            now = self._delays(pid)  # by thread: the news waits for the slowest of them at most
            seconds += max((now[t] - begin.get(t, 0.0) for t in now), default=0.0)
        self._looks.append((time.time(), seconds))

    def by(self, moment: float) -> float:
        """Seconds until a Unix time."""
        later = [seconds for at, seconds in self._looks if at >= moment]
        return later[0] if later else self._looks[-1][1]

    def _delays(self, pid: int) -> dict[str, float]:
        delays = {}
        with suppress(OSError):
            for thread in (self._proc / str(pid) / "task").iterdir():
                with suppress(OSError):
                    delays[thread.name] = int((thread / "schedstat").read_text().split()[1]) / NS
        return delays
