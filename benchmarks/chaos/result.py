"""What one fault has cost: a row of the table in docs/faults.md."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One fault; seconds from the signal on, None where it does not apply; load of the machine.

    waited_s: of `detected_s`, what those who find it waited for a processor, all together.
    start_s: of `full_speed_s`, the start-up: of a worker until its engine has started, of a learner
        group from the first new process, its own or that of the buffer or controller that was lost,
        until its epoch begins, of a resumed run until engines have their weights.
    slowed: others' steps meanwhile, see `steps.slowed`.
    """

    part: str
    signal: str
    phase: str
    detected_s: float | None
    full_speed_s: float | None
    replayed: int | None
    outcome: str
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    waited_s: float | None = None
    start_s: float | None = None
    slowed: tuple[float, float] | None = None

    def row(self) -> str:
        """Of the table."""
        seconds = (self.detected_s, self.waited_s, self.full_speed_s, self.start_s)
        numbers = ["–" if s is None else f"{s:.1f}" for s in seconds]
        numbers.append("–" if self.slowed is None else " / ".join(f"{x:.2f}" for x in self.slowed))
        replayed = "–" if self.replayed is None else str(self.replayed)
        numbers += [replayed, f"{self.load:.0f}"]
        cells = [self.part, self.signal, self.phase, *numbers, self.outcome]
        return f"| {' | '.join(cells)} |"
