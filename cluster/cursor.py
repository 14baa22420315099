"""Where a run stands: phase, step, update, and the resumable state that belongs to it.

One small JSON file, replaced atomically after the state that it names is complete
(resume-loses-nothing).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.schema import PPOConfig
from report.metrics import Record


@dataclass(frozen=True)
class Cursor:
    """The next thing to do is: continue in `phase` after `step` (SFT) or `update` (PPO).

    phase: sft | ppo | done.
    group: number of the first group of episodes that no PPO update has taken; None: as many
        as the updates before it take without failures.
    state: folder name under checkpoints/state with the engine's state; "" begins the phase
        from its model folder.
    """

    phase: str = "sft"
    step: int = 0
    update: int = 0
    state: str = ""
    group: int | None = None

    @classmethod
    def load(cls, checkpoints: Path) -> Cursor:
        """Read the cursor; a folder without one is at the beginning."""
        file = checkpoints / "state" / "cursor.json"
        return cls(**json.loads(file.read_text())) if file.is_file() else cls()

    def at(self, state: str) -> Cursor:
        """The same place with a saved state."""
        return replace(self, state=state)

    def save(self, checkpoints: Path, keep: int) -> None:
        """Replace the cursor file, then remove states older than the newest `keep`."""
        folder = checkpoints / "state"
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "cursor.json.new"
        draft.write_text(json.dumps(asdict(self)))
        os.replace(draft, folder / "cursor.json")
        states = sorted(
            (p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime
        )
        for old in states[:-keep]:
            if old.name != self.state:
                shutil.rmtree(old)

    def next_group(self, ppo: PPOConfig) -> int:
        """The group of episodes that a resume plays first."""
        return self.update * (ppo.episodes // ppo.group_size) if self.group is None else self.group

    @property
    def begun(self) -> bool:
        """False where nothing at all is done yet."""
        return self.phase != "sft" or self.step > 0

    def resumes(self, every: int) -> str:
        """Where a resume goes on, as a sentence; `every` is learner.checkpoint_every."""
        if self.phase == "done":
            return "`cardinal resume` has only the run's end to write"
        if self.state:
            done = f"SFT step {self.step}" if self.phase == "sft" else f"PPO update {self.update}"
            return f"`cardinal resume` goes on after {done}, the last checkpoint"
        why = f"learner.checkpoint_every={every}"
        return (
            f"`cardinal resume` begins the phase {self.phase} again: it has no checkpoint yet "
            f"({why}{', which keeps none within a phase' if every == 0 else ''})"
        )

    def covers(self, record: Record) -> bool:
        """Whether a metrics record is before this cursor; the others are written again."""
        if self.phase == "done":
            return True
        kind = record.get("kind")
        if kind == "ppo":
            return record["update"] <= self.update
        if kind == "sft":
            return self.phase == "ppo" or record["step"] <= self.step
        if kind == "sync":
            return record["version"] <= self.update and self.begun
        if kind == "eval":
            return _eval_covered(record, self)
        return True


def _eval_covered(record: Record, cursor: Cursor) -> bool:
    if record.get("stage") == "start":
        return cursor.begun
    if record.get("stage") == "sft":
        return cursor.phase == "ppo" or 0 < record.get("step", 0) <= cursor.step
    return cursor.phase == "ppo" and 0 < record.get("update", 0) <= cursor.update
