"""What the learner's steps take while another part is lost and replaced, beside those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

BEFORE = 5  # updates that are compared with


@dataclass(frozen=True)
class Step:
    """An update: when it ended, what learning took, and processor time of rank 0 so far, s."""

    at: float
    learn_s: float
    processor_s: float
    rank: int = 0  # the id of its process


class Steps:
    """The updates of a run since a time, as they are seen from outside.

    updates: records of those that ended after a Unix time.
    ranks: the learner's processes, rank 0 first.
    """

    def __init__(
        self,
        updates: Callable[[float], Sequence[Mapping[str, object]]],
        ranks: Callable[[], Sequence[psutil.Process]],
        since: float,
    ) -> None:
        self._updates, self._ranks, self._last = updates, ranks, since
        self.seen: list[Step] = []

    def look(self) -> None:
        """Note those that are new."""
        new = self._updates(self._last)
        ranks = self._ranks() if new else []
        for record in new if ranks else []:
            self._last, times = float(str(record["time"])), ranks[0].cpu_times()
            learn_s = float(str(record["learn_seconds"]))
            spent = times.user + times.system
            self.seen.append(Step(self._last, learn_s, spent, ranks[0].pid))


def slowed(steps: Sequence[Step], begin: float, end: float) -> tuple[float, float] | None:
    """How many times as long the steps between two times took as the ones before.

    None without any, and where the learner itself has started again.

    Returns:
        By the clock; by the processor time of the rank, which what others do on its machine
        does not lengthen by a wait.
    """
    before = [step for step in steps if step.at <= begin][-BEFORE - 1 :]
    meanwhile = [step for step in steps if begin < step.at <= end]
    if len(before) < 2 or not meanwhile or len({s.rank for s in before + meanwhile}) > 1:
        return None
    learn = _mean([s.learn_s for s in meanwhile]) / _mean([s.learn_s for s in before[1:]])
    during = (meanwhile[-1].processor_s - before[-1].processor_s) / len(meanwhile)
    usual = (before[-1].processor_s - before[0].processor_s) / (len(before) - 1)
    return learn, during / usual


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
