"""Sending weights from GPU to GPU: the learner's side of vLLM's own channels, nccl and ipc.

Comes in: named tensors, and a client that calls the engines; goes out: vLLM's trainer engine,
whose `send_weights` brings one version to all of them. It does not know Ray or the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

Shapes = list[tuple[str, torch.dtype, tuple[int, ...]]]


@dataclass(frozen=True)
class TransferSpec:
    """What both ends of a channel agree on.

    channel: nccl or ipc.
    rank: of this process in the learner's group; 0 sends.
    bucket_bytes: size of the buffer in which tensors travel.
    address, port: where the group of nccl meets: rank 0's node.
    members: processes in that group: rank 0 and a worker for each GPU of each engine.
    """

    channel: str
    rank: int
    bucket_bytes: int
    address: str = ""
    port: int = 0
    members: int = 1


def bucket_bytes(shapes: Shapes, wanted: int) -> int:
    """A buffer of the wanted bytes, or as large as the largest tensor: vLLM cuts none."""
    return max(wanted, *(bytes_of([item]) for item in shapes))


def bytes_of(shapes: Shapes) -> int:
    """Payload in bytes."""
    return sum(dtype.itemsize * torch.Size(shape).numel() for _, dtype, shape in shapes)


def trainer_settings(wire: TransferSpec) -> Any:
    """The init info of vLLM for a channel; packed, so that memory is bounded by the bucket.

    Raises:
        ValueError: the channel is none of vLLM's, or this vLLM has no trainer's side.
    """
    try:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    except ImportError as error:
        raise ValueError(
            f"cluster.channel={wire.channel} needs vLLM 0.32, whose trainer side is not here: "
            f"{error}; cluster.channel=object_store does without"
        ) from error
    if wire.channel == "ipc":
        return IPCTrainerInitInfo(
            rank=wire.rank, packed=True, packed_buffer_size_bytes=wire.bucket_bytes
        )
    if wire.channel == "nccl":
        return NCCLTrainerInitInfo(
            master_address=wire.address,
            master_port=wire.port,
            world_size=wire.members,
            rank=wire.rank,
            packed=True,
            packed_buffer_size_bytes=wire.bucket_bytes,
        )
    raise ValueError(f"channel is {wire.channel!r}; vLLM's own are nccl and ipc")


def source(shapes: Callable[[], Shapes], tensors: Callable[[], Iterator[Any]]) -> Any:
    """A WeightSource of vLLM: told without gathering, then gathered tensor by tensor.

    Args:
        shapes: name, dtype and full shape of each tensor.
        tensors: a fresh pass over (name, tensor), in the same order; collective.
    """
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class Source(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*item) for item in shapes()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return tensors()

    return Source()


def open_sender(wire: TransferSpec, client: Any, weights: Any) -> Any:
    """Meet the engines and return vLLM's trainer engine; every rank calls it.

    Args:
        wire: what both ends agree on.
        client: vLLM's VLLMWeightSyncClient, four calls that reach every engine.
        weights: a WeightSource.
    """
    settings = trainer_settings(wire)
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(settings, client=client, source=weights)
