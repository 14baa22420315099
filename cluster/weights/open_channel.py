"""The weight channel that a name stands for."""

from __future__ import annotations

from cluster.handles import BufferHandle, RolloutWorkerHandle
from cluster.weights.base import Publishing, PublishResult, WeightChannel
from cluster.weights.device import DeviceChannel
from cluster.weights.object_store import ObjectStoreChannel
from configs.schema import RunConfig
from learner.engine import TrainingEngine


class NoEngines:
    """The channel of a run without engines (`ppo.blocks`)."""

    def publish(self, version: int, engine: TrainingEngine) -> Publishing | None:
        """Send nothing."""
        return lambda: PublishResult(version, 0.0, 0, 0, 0.0)


def open_channel(
    name: str,
    cfg: RunConfig,
    workers: list[RolloutWorkerHandle],
    buffer: BufferHandle,
    rank: int,
) -> WeightChannel:
    """The channel by its name: object_store, nccl or ipc; engines join it at the first publish.

    Without workers it sends nothing.
    """
    if not workers:
        return NoEngines()
    if name == "object_store":
        return ObjectStoreChannel(cfg, buffer, rank)
    return DeviceChannel(name, cfg, workers, buffer, rank)
