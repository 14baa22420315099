"""The weight channel that a name stands for."""

from __future__ import annotations

from cluster.handles import BufferHandle, RolloutWorkerHandle
from cluster.weights.base import WeightChannel
from cluster.weights.device import DeviceChannel
from cluster.weights.object_store import ObjectStoreChannel
from configs.schema import RunConfig


def open_channel(
    name: str,
    cfg: RunConfig,
    workers: list[RolloutWorkerHandle],
    buffer: BufferHandle,
    rank: int,
) -> WeightChannel:
    """The channel by its name: object_store, nccl or ipc; engines join it at the first publish."""
    if name == "object_store":
        return ObjectStoreChannel(cfg, buffer, rank)
    return DeviceChannel(name, cfg, workers, buffer, rank)
