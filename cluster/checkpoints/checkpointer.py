"""When a run's state is saved, and the saving of it on a thread while training goes on.

Each rank copies its part to the host and writes it. Once all parts are written the cursor is moved
to them: at the next step, for ranks agree at steps alone. Whatever a crash leaves unfinished, the
cursor names the last state that is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from cluster.checkpoints.checkpoint_store import KEY, CheckpointStore, state_name
from cluster.checkpoints.cursor import Cursor
from configs.schema import RunConfig
from configs.text import one_line
from learner import distributed
from learner.snapshot import Snapshot, snapshot_bytes, write_file

MOST_GIVEN_UP = 2  # states that hang while they are written, each a copy in the host's memory
LOOK_S = 1.0  # between two questions whether the run is to stop
GIB = 2**30
Written = Future[dict[str, int]]  # bytes by file


class Snapshots(Protocol):
    """What a state is taken of: a training engine."""

    def snapshot(self) -> Snapshot:
        """This rank's part, on the host; a collective call."""


@dataclass(frozen=True)
class Writing:
    """A state that is being written: where it will stand, and this rank's part of the work.

    written: bytes of each of this rank's files.
    """

    cursor: Cursor
    begun: float
    written: Written


class Checkpointer:
    """The checkpoints of one rank. All ranks call each method alike, except where it says so.

    Args:
        cfg: the run's configuration.
        rank: of the learner group; rank 0's clock counts.
        store: where states are written.
        move: moves the run's cursor, and names the states that count no more; called on rank 0.
        kept: the states that the run's cursor names; called on rank 0.
        stop_requested: whether the run is to stop; asked on rank 0.
        report: says that a checkpoint failed, and why; called on rank 0.

    Attributes:
        stopping: the run ends with its next checkpoint; alike on all ranks.
    """

    def __init__(
        self,
        cfg: RunConfig,
        rank: int,
        store: CheckpointStore,
        *,
        move: Callable[[Cursor], Collection[str]],
        kept: Callable[[], Collection[str]],
        stop_requested: Callable[[], bool],
        report: Callable[[str], None],
    ) -> None:
        self._cfg, self._rank, self._store = cfg, rank, store
        self._move, self._kept = move, kept
        self._stop_requested, self._report = stop_requested, report
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Writing | None = None
        self._given_up: list[Written] = []  # those that a thread may still be writing
        self._last: Cursor | None = None  # where the state that was begun last stands
        self._not_removed = ""
        self._begun = self._looked = time.monotonic()
        self.stopping = False
        # A process that was lost may still write, so no two of them write the same names.
        self._suffix = distributed.all_gather(uuid4().hex[:4])[0]

    def due(self, number: int) -> bool:
        """Whether a checkpoint is due after a step or update; one that is written counts now."""
        learner = self._cfg.learner
        late = stop = overdue = writing = False
        if self._rank == 0:
            minutes = (time.monotonic() - self._begun) / 60
            late = 0 < learner.checkpoint_minutes <= minutes
            stop = self._stop_soon()
            self._report_what_was_not_removed()
        if self._writing is not None:
            writing = not self._writing.written.done()
            overdue = self._left(self._writing) < 0
        flags = distributed.all_max([late, stop, writing, overdue])
        late, stop, writing, overdue = map(bool, flags)
        self.stopping = self.stopping or stop
        if self._writing is not None and (overdue or not writing):
            self._settle()
            writing = False
        by_number = bool(learner.checkpoint_every) and number % learner.checkpoint_every == 0
        return by_number or self.stopping or (late and not writing)

    def _stop_soon(self) -> bool:
        if time.monotonic() - self._looked < LOOK_S:
            return False
        self._looked = time.monotonic()
        return self._stop_requested()

    def begin(self, engine: Snapshots, cursor: Cursor) -> None:
        """Copy the state and begin to write it; the state before it is written first.

        While a rank's parts of two that were given up are still being written none is copied: they
        would fill the memory, one after another.
        """
        self.finish()
        begun, self._last = time.monotonic(), cursor
        self._begun = begun
        state = state_name(cursor, self._suffix)
        cursor = cursor.at(state)
        stuck = self._first(self._stuck())
        if stuck:
            self._fail(cursor, stuck)
            return
        snapshot = engine.snapshot()
        need = int(distributed.all_sum(snapshot_bytes(snapshot))[0])
        short = self._first(self._shortage(need) if self._rank == 0 else "")
        if short:
            self._fail(cursor, short)
        else:
            written = self._thread.submit(self._write, state, snapshot)
            self._writing = Writing(cursor, begun, written)

    def _first(self, failure: str) -> str:
        """The first rank's failure that has one; a collective call."""
        return next((f for f in distributed.all_gather(failure) if f), "")

    def _stuck(self) -> str:
        """Why this rank can write no state; nothing if it can."""
        self._given_up = [written for written in self._given_up if not written.done()]
        if len(self._given_up) < MOST_GIVEN_UP:
            return ""
        return f"{self._store.place}: {MOST_GIVEN_UP} that were given up are still being written"

    def _shortage(self, need: int) -> str:
        """Why a state of so many bytes cannot be written; nothing if it can."""
        try:
            free = self._store.free_bytes()
        except OSError as error:
            return one_line(error)
        if free is None or need <= free:
            return ""
        return (
            f"{self._store.place}: it takes {need / GIB:.2f} GiB and {free / GIB:.2f} GiB are "
            f"free; lower learner.keep_checkpoints, or choose another {KEY}"
        )

    def _write(self, state: str, snapshot: Snapshot) -> dict[str, int]:
        sizes = {}
        for name, content in snapshot.items():
            with self._store.create(state, name) as stream:
                write_file(stream, content)
                sizes[name] = stream.tell()
        return sizes

    def has(self, cursor: Cursor) -> bool:
        """Whether the state that was begun last stands at this place, and has not failed."""
        self.finish()
        return self._last == cursor

    def finish(self) -> None:
        """Wait until the state that was begun last is complete, or has failed."""
        if self._writing is None:
            return
        wait([self._writing.written], timeout=max(0.0, self._left(self._writing)))
        self._settle()

    def _left(self, writing: Writing) -> float:
        """Seconds until it is given up."""
        return writing.begun + self._cfg.cluster.checkpoint_deadline_s - time.monotonic()

    def _settle(self) -> None:
        """Move the cursor to a state that all ranks have written; or say which did not, and why."""
        writing, self._writing = self._writing, None
        assert writing is not None
        if (
            not writing.written.done()
        ):  # its thread may hang for ever: others are written by another
            self._given_up.append(writing.written)
            self._thread = ThreadPoolExecutor(1, "checkpoint")
        first = self._first(self._failure(writing.written))
        if not first:
            written = distributed.all_gather(writing.written.result())
            files = {name: size for own in written for name, size in own.items()}
            cursor = writing.cursor.at(writing.cursor.state, files)
            first = self._first(self._move_to(cursor) if self._rank == 0 else "")
        if first:
            self._fail(writing.cursor, first)

    def _move_to(self, cursor: Cursor) -> str:
        """Move the run's cursor; why it cannot be moved, if it cannot."""
        try:
            for state in self._move(cursor):
                self._thread.submit(self._remove, state)
        except OSError as error:
            # It may have come after the cursor was replaced, as from its folder's storage.
            return "" if self._is_named(cursor.state) else one_line(error)
        return ""

    def _is_named(self, state: str) -> bool | None:
        """Whether the run's cursor names a state; None where it cannot be read."""
        try:
            return state in self._kept()
        except OSError:
            return None

    def _failure(self, written: Written) -> str:
        """Why this rank's part is not complete; nothing if it is."""
        if not written.done():
            seconds = self._cfg.cluster.checkpoint_deadline_s
            return (
                f"{self._store.place}: not written in {seconds:g} s (cluster.checkpoint_deadline_s)"
            )
        error = written.exception()
        return one_line(error) if error is not None else ""

    def _fail(self, cursor: Cursor, why: str) -> None:
        """Say that a state is not complete, and remove what there is of it; the run goes on."""
        self._last = None  # another one may be begun at the same place, under another name
        self._suffix = f"{(int(self._suffix, 16) + 1) % 16**4:04x}"
        if self._rank == 0:
            if self._is_named(cursor.state) is False:  # else the run's next start removes it
                self._thread.submit(self._remove, cursor.state)
            self._report(f"{cursor.place} has no checkpoint: {why}")

    def _remove(self, state: str) -> None:
        try:
            self._store.remove(state)
        except OSError as error:
            self._not_removed = f"{self._store.place}/{state} is not removed: {one_line(error)}"

    def _report_what_was_not_removed(self) -> None:
        if self._not_removed:
            self._report(self._not_removed)
            self._not_removed = ""
