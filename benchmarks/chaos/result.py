"""What one fault has cost: a row of the table in docs/faults.md."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Result:
    """One fault; seconds from the signal on, None where it does not apply; load of the machine."""

    part: str
    signal: str
    phase: str
    detected_s: float | None
    full_speed_s: float | None
    replayed: int | None
    outcome: str
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    def row(self) -> str:
        """Of the table."""
        numbers = [
            f"{s:.1f}" if s is not None else "–" for s in (self.detected_s, self.full_speed_s)
        ]
        replayed = "–" if self.replayed is None else str(self.replayed)
        numbers += [replayed, f"{self.load:.0f}"]
        cells = [self.part, self.signal, self.phase, *numbers, self.outcome]
        return f"| {' | '.join(cells)} |"
