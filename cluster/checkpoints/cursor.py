"""Where a run stands: phase, step, update, and the resumable state that belongs to it.

One small JSON file, replaced atomically after the state that it names is complete
(resume-loses-nothing).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from dataclasses import fields as dataclass_fields
from pathlib import Path

from configs.disk import replace_file
from configs.load import ConfigError
from configs.schema import PPOConfig
from report.metrics import Record, read_object


@dataclass(frozen=True)
class Cursor:
    """The next thing to do is: continue in `phase` after `step` (SFT) or `update` (PPO).

    phase: sft | ppo | done.
    group: number of the first group of episodes that no PPO update has taken; None: as many
        as the updates before it take without failures.
    unevaluated: the evaluation that is due after it is still to be recorded.
    state: name of the engine's saved state (checkpoint_store.py); "" begins the phase
        from its model folder.
    files: bytes of each file of that state; none where an older version wrote it.
    """

    phase: str = "sft"
    step: int = 0
    update: int = 0
    state: str = ""
    group: int | None = None
    unevaluated: bool = False
    files: dict[str, int] = field(default_factory=dict, hash=False)

    @classmethod
    def load(cls, checkpoints: Path) -> Cursor:
        """Read the cursor; a folder without one is at the beginning."""
        return _cursor(_read(checkpoints))

    def at(self, state: str, files: Mapping[str, int] | None = None) -> Cursor:
        """The same place with a saved state, of these files once it is complete."""
        return replace(self, state=state, files=dict(files or {}))

    def save(self, checkpoints: Path, keep: int) -> list[str]:
        """Replace the cursor file; the newest `keep` states count. Those that count no more."""
        known = _kept(checkpoints)
        if self.state:
            known = {**known, self.state: self}
        kept = list(known)[-keep:]
        _write(checkpoints, self, [known[state] for state in kept])
        return [state for state in known if state not in kept]

    @property
    def place(self) -> str:
        """The last step or update that it counts as done, for people."""
        return f"SFT step {self.step}" if self.phase == "sft" else f"PPO update {self.update}"

    def next_group(self, ppo: PPOConfig) -> int:
        """The group of episodes that a resume plays first."""
        return self.update * (ppo.episodes // ppo.group_size) if self.group is None else self.group

    @property
    def begun(self) -> bool:
        """False where nothing at all is done yet."""
        return self.phase != "sft" or self.step > 0

    def resumes(self) -> str:
        """Where a resume goes on, as a sentence."""
        if self.phase == "done":
            return "`cardinal resume` has only the run's end to write"
        if self.state:
            return f"`cardinal resume` goes on after {self.place}, the last checkpoint"
        return f"`cardinal resume` begins the phase {self.phase} again: it has no checkpoint yet"

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


def kept_states(checkpoints: Path) -> list[str]:
    """The states that count, oldest first."""
    return list(_kept(checkpoints))


def cursor_file(checkpoints: Path) -> Path:
    """Where the cursor of a run is."""
    return checkpoints / "state" / "cursor.json"


def begin_cursor(checkpoints: Path) -> None:
    """Write the cursor of a run that has none: from then on one that is gone was lost."""
    if not _read(checkpoints):
        _write(checkpoints, Cursor(), [])


def has_cursor(checkpoints: Path) -> bool:
    """Whether the run has a cursor, wherever that stands."""
    return bool(_read(checkpoints))


def written_files(checkpoints: Path, state: str) -> dict[str, int]:
    """Bytes of each file of a state that counts; none where they are not known."""
    kept = _kept(checkpoints)
    return kept[state].files if state in kept else {}


def fall_back(checkpoints: Path, state: str) -> Cursor | None:
    """Move the run from a state that cannot be read to the one that was kept before it.

    Several ranks may find that it cannot be read; the first one moves the run.

    Returns:
        Where the run stands then; None where no older state is kept.
    """
    cursor, kept = Cursor.load(checkpoints), _kept(checkpoints)
    if cursor.state != state:
        return cursor
    older = [kept[name] for name in list(kept)[: list(kept).index(state)]]
    if not older:
        return None
    _write(checkpoints, older[-1], older)
    return older[-1]


def _kept(checkpoints: Path) -> dict[str, Cursor]:
    """Where the states that count stand, by their names, oldest first."""
    fields = _read(checkpoints)
    cursors = [_cursor(each) for each in (*fields.get("kept", []), fields)]
    return {cursor.state: cursor for cursor in cursors if cursor.state}


def _cursor(fields: Record) -> Cursor:
    return Cursor(**{name: value for name, value in fields.items() if name != "kept"})


def _known(fields: Record, file: Path) -> Record:
    """The fields, if this version writes all of them."""
    known = {field.name for field in dataclass_fields(Cursor)}
    kept = fields.get("kept", [])
    for place in (fields, *(kept if isinstance(kept, list) else [kept])):
        if not isinstance(place, dict):
            raise ConfigError(f"{file}: {place!r} under kept: must be an object, a cursor's")
        state = place.get("state", "")
        if not isinstance(state, str) or state in (".", "..") or Path(state).name != state:
            raise ConfigError(f"{file}: state={state!r}: must be the name of a folder beside it")
        if unknown := sorted(place.keys() - known - {"kept"}):
            raise ConfigError(
                f"{file}: {', '.join(unknown)}: no field of a cursor; another version of Cardinal "
                "wrote it, which can go on with the run"
            )
        for name, (holds, rule) in RULES.items():
            if name in place and not holds(place[name]):
                raise ConfigError(f"{file}: {name}={place[name]!r}: must be {rule}")
    return fields


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "phase": (lambda value: value in ("sft", "ppo", "done"), "sft, ppo or done"),
    "step": (_is_number, "a number from 0 on"),
    "update": (_is_number, "a number from 0 on"),
    "group": (lambda value: value is None or _is_number(value), "a number from 0 on, or null"),
    "unevaluated": (lambda value: isinstance(value, bool), "true or false"),
    "files": (
        lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
        "numbers of bytes by name",
    ),
}


def _write(checkpoints: Path, cursor: Cursor, kept: list[Cursor]) -> None:
    file = cursor_file(checkpoints)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, json.dumps(asdict(cursor) | {"kept": [asdict(each) for each in kept]}))


def _read(checkpoints: Path) -> Record:
    file = cursor_file(checkpoints)
    return _known(read_object(file), file)


def _eval_covered(record: Record, cursor: Cursor) -> bool:
    if record.get("stage") == "start":
        return cursor.begun
    if record.get("stage") == "sft":
        last = cursor.step - cursor.unevaluated
        return cursor.phase == "ppo" or 0 < record.get("step", 0) <= last
    last = cursor.update - cursor.unevaluated
    return cursor.phase == "ppo" and 0 < record.get("update", 0) <= last
