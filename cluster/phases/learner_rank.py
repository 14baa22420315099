"""What one learner rank holds through all phases of a run: cursor, policy version and records."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

from opentelemetry import trace

from cluster.checkpoints.checkpoint_store import CheckpointStore, state_place
from cluster.checkpoints.checkpointer import Checkpointer
from cluster.checkpoints.cursor import Cursor, kept_states
from cluster.checkpoints.load_state import load_state
from cluster.failures import RunFailure, RunStopped
from cluster.job import Job
from cluster.run.prometheus import RunMetrics
from cluster.run.tracing import record_spans
from cluster.wait import wait_for
from configs.disk import to_disk
from configs.schema import OptimizerConfig
from configs.text import one_line
from learner import distributed
from learner.engine import ReferencePolicy, TrainingEngine
from report.metrics import RunLog, read
from rollout.renderer import Renderer

TRACER = trace.get_tracer("cardinal")
BEFORE = ".before"  # of the model that a new one of its name takes the place of


class LearnerRank:
    """One rank of the learner group.

    cursor: where the run stands; alike on all ranks.
    version: of the policy: the number of PPO updates behind it.
    log: the run's records; rank 0 alone has them.
    """

    def __init__(self, job: Job, rank: int) -> None:
        self.job, self.cfg, self.rank = job, job.cfg, rank
        record_spans(Path(job.folder), f"learner rank {rank}")
        self.checkpoints = Path(job.folder) / "checkpoints"
        self.cursor = Cursor.load(self.checkpoints)
        self.renderer = Renderer.load(job.model)
        check = job.token.check
        self.log = RunLog(job.folder, self.cursor.covers, check) if rank == 0 else None
        self.version = self.cursor.update
        self._metrics = RunMetrics(job.cfg.name)
        self._store = CheckpointStore(state_place(self.cfg, Path(job.folder)))
        self._checkpointer = Checkpointer(
            self.cfg,
            rank,
            self._store,
            move=self._save_cursor,
            kept=lambda: kept_states(self.checkpoints),
            stop_requested=self._stop_requested,
            report=lambda why: self.write("failure", who="checkpoint", cause=why),
        )
        if rank == 0:
            self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        """Remove what a crash left of states that were never complete, and put models back."""
        try:
            for before in self.checkpoints.glob(f"*{BEFORE}"):
                if (model := before.with_suffix("")).exists():
                    shutil.rmtree(before)
                else:
                    before.rename(model)
            self._store.keep(kept_states(self.checkpoints))
        except OSError as error:
            cause = f"{self._store.place}: unfinished states are not removed: {one_line(error)}"
            self.write("failure", who="checkpoint", cause=cause)

    def open_engine(
        self,
        folder: str,
        optimizer: OptimizerConfig,
        steps: int,
        value: bool,
        frozen_steps: int = 0,
    ) -> TrainingEngine:
        """A phase's engine, at the cursor; arguments as of TrainingEngine.

        Raises:
            RunFailure: the model cannot be trained as configured; a restart would not help.
            StateLost, RunFailure, OSError: as `load_state`.
        """
        forbidden = self.renderer.forbidden
        try:
            engine = TrainingEngine(
                folder,
                self.cfg,
                optimizer,
                steps,
                value,
                forbidden=forbidden,
                frozen_steps=frozen_steps,
            )
        except ValueError as error:
            raise RunFailure(str(error)) from error
        self.write("packing", who="learner", **asdict(engine.packing_check))
        if self.cursor.state:
            check = self.job.token.check
            load_state(engine, self._store, self.checkpoints, self.cursor.state, check)
        return engine

    def open_reference(self, folder: str) -> ReferencePolicy:
        """A frozen copy of the folder's policy."""
        return ReferencePolicy(folder, self.cfg, self.renderer.forbidden)

    def checkpoint_due(self, number: int) -> bool:
        """Whether a checkpoint is due after a step or update; a collective call."""
        return self._checkpointer.due(number)

    @property
    def stopping(self) -> bool:
        """Whether the run is to end, as far as `checkpoint_due` has found."""
        return self._checkpointer.stopping

    @TRACER.start_as_current_span("checkpoint")
    def checkpoint(self, engine: TrainingEngine, cursor: Cursor) -> None:
        """Save the engine's state, then move the cursor to it: a crash between loses nothing.

        It is written while the run goes on. A collective call.

        Raises:
            RunStopped: the run was asked to end; the state is written.
        """
        if self.stopping:
            self.save_and_stop(engine, cursor)
        self.job.token.check()
        self._checkpointer.begin(engine, cursor)

    @TRACER.start_as_current_span("checkpoint")
    def checkpoint_before_evaluation(self, engine: TrainingEngine, cursor: Cursor) -> None:
        """As `checkpoint`: an evaluation that is cut short costs no training; a collective call."""
        learner = self.cfg.learner
        if learner.checkpoint_minutes or learner.checkpoint_every:
            self.job.token.check()
            self._checkpointer.begin(engine, replace(cursor, unevaluated=True))

    def settle(self) -> None:
        """Wait for the checkpoint that was begun last; a collective call."""
        self._checkpointer.finish()

    @TRACER.start_as_current_span("checkpoint")
    def save(self, engine: TrainingEngine, cursor: Cursor) -> None:
        """Save the state at the end of a phase's training, and wait for it; a collective call.

        So that no end of an export or evaluation after it costs the phase.
        """
        learner = self.cfg.learner
        if learner.checkpoint_minutes or learner.checkpoint_every:
            if cursor != self.cursor and not self._checkpointer.has(cursor):
                self.job.token.check()
                self._checkpointer.begin(engine, cursor)
            self._checkpointer.finish()

    @TRACER.start_as_current_span("checkpoint")
    def save_and_stop(self, engine: TrainingEngine, cursor: Cursor) -> NoReturn:
        """End as a run that was asked to, with its state saved at the cursor; a collective call."""
        if cursor != self.cursor and not self._checkpointer.has(cursor):
            self.job.token.check()
            self._checkpointer.begin(engine, cursor)
        self._checkpointer.finish()
        raise RunStopped("the run was asked to stop")

    def _stop_requested(self) -> bool:
        call = self.job.buffer.stopping.remote()
        seconds, what = self.cfg.cluster.block_deadline_s, "say whether the run is to stop"
        return wait_for(call, "the buffer", what, seconds, "block_deadline_s")

    def export(self, engine: TrainingEngine, name: str) -> None:
        """Write the model as checkpoints/NAME, complete or not at all; a collective call."""
        self.job.token.check()
        draft, target = self.checkpoints / f"{name}.new", self.checkpoints / name
        if self.rank == 0:
            shutil.rmtree(draft, ignore_errors=True)
        engine.export(str(draft), self.renderer.stop_ids)
        if self.rank == 0:
            to_disk(*draft.rglob("*"), draft)
            before = self.checkpoints / f"{name}{BEFORE}"
            if target.exists():  # or its end would leave neither
                shutil.rmtree(before, ignore_errors=True)
                target.rename(before)
            draft.rename(target)
            to_disk(self.checkpoints)  # before a cursor that is past it
            shutil.rmtree(before, ignore_errors=True)
        distributed.barrier()

    def keep_best(self, engine: TrainingEngine) -> None:
        """Export the model just evaluated as checkpoints/best, if it is; a collective call."""
        if self.cfg.learner.keep_best is None:
            return
        if distributed.all_max([self.rank == 0 and self._last_is_best()])[0]:
            self.export(engine, "best")

    def _last_is_best(self) -> bool:
        variant, _, measure = (self.cfg.learner.keep_best or "").rpartition("/")
        values = [
            record.get(measure)
            for record in read(self.job.folder)
            if record["kind"] == "eval" and record["variant"] == variant
            if record["stage"] != "start"
        ]
        if not values or values[-1] is None:  # it has not been measured, or not as a number
            return False
        before = [value for value in values[:-1] if value is not None]
        return bool(values[-1] > max(before, default=-math.inf))

    def move(self, cursor: Cursor) -> None:
        """Move the run to the cursor, once all ranks have come so far; a collective call."""
        self._checkpointer.finish()
        distributed.barrier()
        if self.rank == 0:
            self._save_cursor(cursor)
        self.cursor = cursor

    def _save_cursor(self, cursor: Cursor) -> list[str]:
        self.job.token.check()
        assert self.log is not None  # on rank 0
        self.log.to_disk()  # they are not written again once the cursor is past them
        return cursor.save(self.checkpoints, keep=self.cfg.learner.keep_checkpoints)

    def write(self, kind: str, **fields: object) -> None:
        """Add a record to the run's metrics, Prometheus's too; see `RunLog.write`."""
        if self.log is not None:
            self.log.write(kind, **fields)
            self._metrics.record(kind, fields)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record begin and end of what happens inside."""
        begin = time.monotonic()
        self.write("phase", phase=name, event="begin")
        with TRACER.start_as_current_span(name):
            yield
        self.write("phase", phase=name, event="end", seconds=time.monotonic() - begin)
