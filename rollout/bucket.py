"""A weight bucket: many named tensors in one flat byte array, and the header that names them.

The learner packs, the engine unpacks; both sides agree here and nowhere else. Nothing here
knows how the bytes travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

TensorT = TypeVar("TensorT", bound=torch.Tensor)
ALIGN = 64  # bytes; so that every view is aligned for any dtype and vector load


@dataclass(frozen=True)
class Header:
    """What lies where in a bucket.

    names: checkpoint names, in order.
    dtypes: torch dtype names without "torch.".
    shapes: full shapes.
    offsets: byte offset of each tensor; bytes is the bucket's length.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    offsets: list[int]
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """A plain dict for message passing."""
        return asdict(self)


def pack(tensors: Iterable[tuple[str, torch.Tensor]]) -> tuple[Header, NDArray[np.uint8]]:
    """Copy named tensors into one uint8 [bytes] array on the CPU."""
    items = [(name, tensor.detach()) for name, tensor in tensors]
    offsets, end = [], 0
    for _, tensor in items:
        offsets.append(end)
        size = tensor.numel() * tensor.element_size()
        end += -(-size // ALIGN) * ALIGN
    header = Header(
        names=[name for name, _ in items],
        dtypes=[str(tensor.dtype).removeprefix("torch.") for _, tensor in items],
        shapes=[list(tensor.shape) for _, tensor in items],
        offsets=offsets,
        bytes=end,
    )
    data = np.empty(end, np.uint8)
    for (_, view), (_, tensor) in zip(unpack(header, data), items, strict=True):
        view.copy_(tensor)
    return header, data


def unpack(header: Header, data: NDArray[np.uint8]) -> list[tuple[str, torch.Tensor]]:
    """Named views of a bucket's bytes; nothing is copied.

    Raises:
        ValueError: the array's length is not the header's.
    """
    if data.nbytes != header.bytes:
        raise ValueError(f"weight bucket has {data.nbytes} bytes, its header says {header.bytes}")
    flat = torch.from_numpy(data)
    views = []
    for name, dtype, shape, offset in zip(
        header.names, header.dtypes, header.shapes, header.offsets, strict=True
    ):
        kind = getattr(torch, dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        views.append((name, flat[offset : offset + size].view(kind).view(shape)))
    return views


def buckets(
    named_tensors: Iterable[tuple[str, TensorT]], limit_bytes: int
) -> Iterator[list[tuple[str, TensorT]]]:
    """Cut named tensors, in order, into lists of at most `limit_bytes` in all.

    A larger tensor is alone in its list. A parameter that ZeRO stage 3 has partitioned counts
    with its full size (`ds_numel`), not with this rank's part.
    """
    bucket: list[tuple[str, TensorT]] = []
    size = 0
    for name, tensor in named_tensors:
        nbytes = getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size()
        if bucket and size + nbytes > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += nbytes
    if bucket:
        yield bucket
