"""What the driver hands to every learner rank: the run, its actors, and how weights travel."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.handles import BufferHandle, RolloutWorkerHandle
from configs.schema import RunConfig


@dataclass(frozen=True)
class Job:
    """One run.

    folder: absolute run folder, seen by all nodes.
    model: folder of the initial model.
    workers, buffer: actor handles.
    channel: how weights reach the workers, a name that `open_channel` knows.
    """

    cfg: RunConfig
    folder: str
    model: str
    workers: list[RolloutWorkerHandle]
    buffer: BufferHandle
    channel: str = "object_store"
