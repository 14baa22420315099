"""Batches that are recorded while a learner trains on them, and batches that were recorded.

Each stands in the place of `cluster.stream.collect.Collector`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from cluster.job import Job
from cluster.run.run_folder import ppo_start
from cluster.stream.collect import TRACER, Batch, Collector, Pack
from cluster.stream.recorded_blocks import (
    FOLDER,
    metadata_of,
    read_blocks,
    recorded_updates,
    write_blocks,
)
from report.metrics import Record


class RecordingCollector(Collector):
    """Writes what the rank trains on to RUN/blocks (`ppo.record`)."""

    @TRACER.start_as_current_span("record")
    def write_batch(self, update: int, batch: Batch) -> None:
        """Write the blocks of an update."""
        self._job.token.check()
        folder = Path(self._job.folder) / FOLDER
        write_blocks(folder, update, self._rank, batch.trajectories, self._metadata)

    @cached_property
    def _metadata(self) -> Record:
        job = self._job
        start = ppo_start(Path(job.folder) / "checkpoints", job.model)
        attempt = f"{job.token.number}.{job.buffer.epoch}"
        return metadata_of(job.cfg, start, job.cfg.learner.ranks, attempt)


class RecordedCollector(Collector):
    """Reads what was recorded (`ppo.blocks`); no engine plays."""

    def __init__(self, job: Job, rank: int, write: Callable[..., None]) -> None:
        super().__init__(job, rank, write)
        assert job.cfg.ppo.blocks is not None
        self._folder = Path(job.cfg.ppo.blocks)

    def begin(self, update: int, next_group: int, pack: Pack | None = None) -> None:
        """Nothing is played."""

    def updates(self, first: int) -> range:
        """Those that are recorded, at most `ppo.updates`."""
        last = min(self._job.cfg.ppo.updates, recorded_updates(self._folder)[-1])
        return range(first, last + 1)

    def take(self, update: int) -> Batch:
        """As Collector.take."""
        begin, cfg = time.monotonic(), self._job.cfg
        trajectories = read_blocks(self._folder, update, self._rank, cfg.learner.ranks)
        next_group = update * (cfg.ppo.episodes // cfg.ppo.group_size)
        record = {"failed": 0, "waited_seconds": time.monotonic() - begin}
        return Batch(trajectories, next_group, record)
