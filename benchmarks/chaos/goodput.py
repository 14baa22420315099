"""Useful time by time: how long the updates that stand would have taken without a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from report.metrics import Record

EVERY_MINUTES = 3.0  # between two faults, while goodput is measured
RECOVERED_MINUTES = 2.0  # after a fault, by when the run is at full speed again
CURVE_MINUTES = (1, 2, 3, 5, 10, 30, 60)
Load = tuple[float, float]  # when, and the machine's load


@dataclass(frozen=True)
class Stretch:
    """A part of the time, Unix, s: from begin to end."""

    begin: float
    end: float

    def updates(self, ends: Sequence[float]) -> int:
        """How many updates ended in it."""
        return sum(self.begin < end <= self.end for end in ends)

    def goodput(self, ends: Sequence[float], seconds: float) -> float:
        """Useful time by time: the updates that stand, each as long as one without a fault.

        Args:
            ends: when each of them ended.
            seconds: that an update takes without a fault.
        """
        return min(1.0, self.updates(ends) * seconds / (self.end - self.begin))


def undisturbed(begin: float, faults: Sequence[float], every: float) -> list[Stretch]:
    """The minute before each next fault, by when the run has recovered from the last one.

    Args:
        begin: of the time with these faults.
        faults: seconds after it.
        every: minutes from one to the next; there is no such minute where they are too few.
    """
    if every <= RECOVERED_MINUTES:
        return []
    ends = [begin + fault + 60 * every for fault in faults]
    return [Stretch(end - 60.0, end) for end in ends]


def pace(stretches: Sequence[Stretch], ends: Sequence[float]) -> float:
    """Seconds that an update takes in these stretches."""
    seconds = sum(stretch.end - stretch.begin for stretch in stretches)
    return seconds / max(1, sum(stretch.updates(ends) for stretch in stretches))


def load(stretches: Sequence[Stretch], loads: Sequence[Load]) -> float:
    """The machine's mean load in these stretches."""
    within = [load for at, load in loads if any(s.begin < at <= s.end for s in stretches)]
    return sum(within) / max(1, len(within))


def curve(goodput: float, every: float) -> dict[str, float]:
    """Goodput by minutes between two faults, computed: each costs as much as at the measured."""
    lost = (1 - goodput) * every
    return {str(minutes): max(0.0, 1 - lost / minutes) for minutes in CURVE_MINUTES}


def measured(
    quiet: Sequence[Stretch],
    disturbed: Stretch,
    faults: Sequence[float],
    ends: Sequence[float],
    loads: Sequence[Load],
    every: float = EVERY_MINUTES,
) -> Record:
    """Goodput of a stretch with a fault now and then, by two paces of the run without one.

    What else the machine does differs from minute to minute, and is no fault's cost: so one pace
    is that of the minutes between the faults. What faults leave behind, though, slows those too:
    so the other is that of the minutes before the first fault and after the last.

    Args:
        quiet: before the faults and after them.
        disturbed: with them.
        faults: seconds after its begin.
        ends: of the updates that stand.
        loads: of the machine, all the time.
        every: minutes from a fault to the next.
    """
    between = undisturbed(disturbed.begin, faults, every)
    paces = pace(between or quiet, ends), pace(quiet, ends)
    rates = [disturbed.goodput(ends, seconds) if faults else None for seconds in paces]
    return {
        "update_seconds": paces[0],
        "update_seconds_quiet": paces[1],
        "goodput": rates[0],
        "goodput_quiet": rates[1],
        "goodput_every_minutes": every,
        "goodput_computed_by_minutes": None if rates[0] is None else curve(rates[0], every),
        "load_between": load(between or quiet, loads),
        "load_quiet": load(quiet, loads),
    }
