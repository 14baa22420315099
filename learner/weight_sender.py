"""Sends weights from GPU to GPU: the trainer's side of vLLM's own channels, nccl and ipc.

Input: named tensors, and a client whose four calls reach every engine. Output: vLLM's trainer
engine, whose `send_weights` brings one version to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from learner.gathered_weights import WeightShapes

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import (
        TrainerInitInfo,
        TrainerWeightTransferEngine,
        VLLMWeightSyncClient,
        WeightSource,
    )


@dataclass(frozen=True)
class TransferSpec:
    """Settings of a channel, on which both ends must agree.

    channel: nccl or ipc.
    rank: of this process in the learner's group; 0 sends.
    bucket_bytes: size of the buffer in which tensors are sent.
    address, port: of nccl's rendezvous, on rank 0's node.
    members: processes in nccl's group: rank 0 and a worker for each GPU of each engine.
    """

    channel: str
    rank: int
    bucket_bytes: int
    address: str = ""
    port: int = 0
    members: int = 1


def buffer_bytes(shapes: WeightShapes, requested: int) -> int:
    """A buffer of the requested bytes, or of the largest tensor's: vLLM splits no tensor."""
    return max(requested, *(payload_bytes([shape]) for shape in shapes))


def payload_bytes(shapes: WeightShapes) -> int:
    """Bytes of all tensors together."""
    return sum(dtype.itemsize * torch.Size(shape).numel() for _, dtype, shape in shapes)


def trainer_init_info(spec: TransferSpec) -> TrainerInitInfo:
    """Settings of vLLM for a channel, with packed tensors.

    Packing bounds the memory of a transfer: the bucket of ipc; for nccl the bucket and one tensor,
    because vLLM closes a chunk there only after the tensor that passes the limit.

    Raises:
        ValueError: the channel is none of vLLM's, or this vLLM has no trainer's side.
    """
    try:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
    except ImportError as error:
        raise ValueError(
            f"cluster.channel={spec.channel} needs vLLM 0.32, whose trainer side is not here: "
            f"{error}; cluster.channel=object_store does without"
        ) from error
    if spec.channel == "ipc":
        return IPCTrainerInitInfo(
            rank=spec.rank, packed=True, packed_buffer_size_bytes=spec.bucket_bytes
        )
    if spec.channel == "nccl":
        return NCCLTrainerInitInfo(
            master_address=spec.address,
            master_port=spec.port,
            world_size=spec.members,
            rank=spec.rank,
            packed=True,
            packed_buffer_size_bytes=spec.bucket_bytes,
        )
    raise ValueError(f"channel is {spec.channel!r}; vLLM's own are nccl and ipc")


def weight_source(
    shapes: Callable[[], WeightShapes], tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]
) -> WeightSource:
    """A WeightSource of vLLM: metadata without gathering, then the gathered tensors one by one.

    Args:
        shapes: name, dtype and full shape of each tensor.
        tensors: a new pass over (name, tensor), in the same order; collective.
    """
    from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource

    class GatheredSource(WeightSource):
        def metadata(self) -> list[ParamMeta]:
            return [ParamMeta(*shape) for shape in shapes()]

        def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
            return tensors()

    return GatheredSource()


def open_sender(
    spec: TransferSpec, client: VLLMWeightSyncClient, source: WeightSource
) -> TrainerWeightTransferEngine[TrainerInitInfo]:
    """Join the engines and return vLLM's trainer engine; every rank calls it.

    Args:
        spec: the channel's settings, equal on both sides.
        client: its four calls reach every engine.
        source: of the weights, read again at each `send_weights`.
    """
    init_info = trainer_init_info(spec)
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    return WeightTransferTrainerFactory.trainer_init(init_info, client=client, source=source)
