"""What one learner rank holds through all phases of a run: cursor, policy version and records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from opentelemetry import trace

from cluster.cursor import Cursor
from cluster.failures import RunFailure
from cluster.job import Job
from cluster.prometheus import RunMetrics
from cluster.tracing import record_spans
from configs.schema import OptimizerConfig
from learner import distributed
from learner.engine import ReferencePolicy, TrainingEngine
from report.metrics import RunLog
from rollout.renderer import Renderer

TRACER = trace.get_tracer("cardinal")


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

    def open_engine(
        self, folder: str, optimizer: OptimizerConfig, steps: int, value: bool
    ) -> TrainingEngine:
        """A phase's engine, at the cursor; arguments as of TrainingEngine.

        Raises:
            RunFailure: the model cannot be trained as configured; a restart would not help.
        """
        forbidden = self.renderer.forbidden
        try:
            engine = TrainingEngine(folder, self.cfg, optimizer, steps, value, forbidden=forbidden)
        except ValueError as error:
            raise RunFailure(str(error)) from error
        self.write("packing", who="learner", **asdict(engine.packing_check))
        if self.cursor.state:
            engine.load(str(self.checkpoints / "state" / self.cursor.state))
        return engine

    def open_reference(self, folder: str) -> ReferencePolicy:
        """A frozen copy of the folder's policy."""
        return ReferencePolicy(folder, self.cfg, self.renderer.forbidden)

    @TRACER.start_as_current_span("checkpoint")
    def checkpoint(self, engine: TrainingEngine, cursor: Cursor) -> None:
        """Save the engine's state, then move the cursor to it: a crash between loses nothing."""
        name = f"{cursor.phase}-{cursor.step or cursor.update:06d}"
        self.job.token.check()
        engine.save(str(self.checkpoints / "state" / name))
        self.move(cursor.at(name))

    def export(self, engine: TrainingEngine, name: str) -> None:
        """Write the model as checkpoints/NAME; a collective call."""
        self.job.token.check()
        engine.export(str(self.checkpoints / name), self.renderer.stop_ids)

    def move(self, cursor: Cursor) -> None:
        """Move the run to the cursor, once all ranks have come so far; a collective call."""
        distributed.barrier()
        if self.rank == 0:
            self.job.token.check()
            cursor.save(self.checkpoints, keep=self.cfg.learner.keep_checkpoints)
        self.cursor = cursor

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
