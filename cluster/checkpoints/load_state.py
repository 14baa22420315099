"""Reading a run's state: what is damaged is given up for the one before; what is away is not."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol

from cluster.checkpoints.checkpoint_store import CheckpointStore
from cluster.checkpoints.cursor import fall_back, kept_states, written_files
from cluster.failures import RunFailure, StateLost
from learner.snapshot import DamagedState, OpenFile

# Of a file that is there: others, as of a storage that is slow or asks for another login, pass.
DAMAGE = (errno.EIO, errno.ENOENT)


class Loads(Protocol):
    """What a state is read into: a training engine."""

    def load(self, names: list[str], open_file: OpenFile) -> None:
        """Continue from a state's files; a collective call."""


def load_state(
    engine: Loads, store: CheckpointStore, checkpoints: Path, state: str, check: Callable[[], None]
) -> None:
    """Have the engine continue from a state.

    Args:
        engine: at the begin of its phase.
        store: holds the state.
        checkpoints: of the run.
        state: its name.
        check: raises where this process may no longer write to the run folder.

    Raises:
        StateLost: it cannot be read; the run was moved to the one kept before it.
        RunFailure: nor is there another one, or it holds what no state of the run does.
        OSError: the place does not answer.
    """
    place = f"{store.place}/{state}"
    try:
        _read(engine, store, kept_states(checkpoints), state, written_files(checkpoints, state))
    except DamagedState as error:
        check()
        older = fall_back(checkpoints, state)
        if older is None:
            raise RunFailure(f"{place}: {error}; no older one is kept") from error
        raise StateLost(f"{place}: {error}; the run goes on after {older.place}") from error
    except ValueError as error:
        raise RunFailure(f"{place}: {error}") from error


def _read(
    engine: Loads, store: CheckpointStore, kept: list[str], state: str, written: Mapping[str, int]
) -> None:
    sizes = store.sizes(state)
    if not sizes:
        if len(kept) > 1 and not any(map(store.names, kept)):
            raise OSError(f"{store.place}: no state of the run is there; is it mounted?")
        raise DamagedState("every file", "it is gone")
    for name, size in written.items():
        if name not in sizes:
            raise DamagedState(name, "it is gone")
        if sizes[name] != size:
            raise DamagedState(name, f"it has {sizes[name]} of its {size} bytes")
    opened: list[str] = []

    def open_file(name: str) -> BinaryIO:
        opened.append(name)
        return store.open(state, name)

    try:
        engine.load(sorted(written or sizes), open_file)
    except OSError as error:
        if opened and error.errno in DAMAGE and _is_damaged(store, kept, state, opened[-1]):
            raise DamagedState(opened[-1], error) from error
        raise


def _is_damaged(store: CheckpointStore, kept: list[str], state: str, name: str) -> bool:
    """Whether a file that could not be read cannot be again, where another state's can be."""
    if store.reads(state, name):
        return False
    for other in kept:
        names = store.names(other) if other != state else []
        if names and store.reads(other, name if name in names else names[0]):
            return True
    return False
