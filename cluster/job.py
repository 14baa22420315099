"""What the driver hands to every learner rank: run, actors, demonstrations, weight channel."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.demonstrations.sft_data import RenderedDemonstrations
from cluster.handles import BufferHandle, RolloutWorkerHandle
from cluster.run.lease import Token
from configs.schema import RunConfig


@dataclass(frozen=True)
class Job:
    """One run.

    token: the right to write the run folder.
    model: folder of the initial model.
    workers, buffer: actor handles.
    channel: how weights reach the workers, a name that `open_channel` knows.
    demonstrations: what SFT trains on; None where no SFT is left to do.
    """

    cfg: RunConfig
    token: Token
    model: str
    workers: list[RolloutWorkerHandle]
    buffer: BufferHandle
    channel: str = "object_store"
    demonstrations: RenderedDemonstrations | None = None

    @property
    def folder(self) -> str:
        """The absolute run folder, seen by all nodes."""
        return self.token.folder
