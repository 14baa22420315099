"""A weight bucket: many named tensors as bytes, and the header that names them and their places.

The learner cuts weights into buckets and packs them; the engine's actor writes each to shared
memory, from which the engine unpacks it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # seconds of a process's start, and the trajectory buffer needs the types alone
    import torch

T = TypeVar("T")
NamedTensor = tuple[str, "torch.Tensor"]
ALIGN = 64  # bytes; so that every view is aligned for any dtype and vector load


@dataclass(frozen=True)
class BucketHeader:
    """The tensors of a bucket and where each begins.

    names: checkpoint names, in order.
    dtypes: torch dtype names without "torch.".
    shapes: full shapes.
    offsets: of each tensor, bytes.
    bytes: length of the bucket.
    """

    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    offsets: list[int]
    bytes: int

    def to_dict(self) -> dict[str, object]:
        """A plain dict for a message; `BucketHeader(**fields)` reads it back."""
        return asdict(self)


class PackedBucket(NamedTuple):
    """A bucket on its way: its header, and uint8 [bytes] of each tensor."""

    header: BucketHeader
    parts: list[NDArray[np.uint8]]


class AnyBucket(Protocol):
    """A PackedBucket, or one that makes its parts when they are requested."""

    @property
    def header(self) -> BucketHeader:
        """Of its tensors."""

    @property
    def parts(self) -> list[NDArray[np.uint8]]:
        """uint8 [bytes] of each tensor."""


def pack(tensors: Iterable[NamedTensor]) -> PackedBucket:
    """The header of named tensors, and their bytes: views, where they are contiguous on the CPU."""
    import torch

    items = [(name, tensor.detach()) for name, tensor in tensors]
    offsets, end = [], 0
    for _, tensor in items:
        offsets.append(end)
        size = tensor.numel() * tensor.element_size()
        end += -(-size // ALIGN) * ALIGN
    header = BucketHeader(
        names=[name for name, _ in items],
        dtypes=[str(tensor.dtype).removeprefix("torch.") for _, tensor in items],
        shapes=[list(tensor.shape) for _, tensor in items],
        offsets=offsets,
        bytes=end,
    )
    flat = (tensor.cpu().contiguous().reshape(-1) for _, tensor in items)
    return PackedBucket(header, [tensor.view(torch.uint8).numpy() for tensor in flat])


def write(bucket: AnyBucket, file: IO[bytes], begin: int = 0) -> None:
    """Write a bucket's bytes to a file, from byte `begin` on, each tensor at its place."""
    for offset, part in zip(bucket.header.offsets, bucket.parts, strict=True):
        file.seek(begin + offset)
        file.write(part.data)
    file.flush()


def unpack(header: BucketHeader, data: NDArray[np.uint8]) -> list[NamedTensor]:
    """Named views of a bucket's bytes; nothing is copied.

    Raises:
        ValueError: the array's length is not the header's.
    """
    if data.nbytes != header.bytes:
        raise ValueError(f"weight bucket has {data.nbytes} bytes, its header says {header.bytes}")
    import torch

    with warnings.catch_warnings():  # torch has no tensors that are only to be read
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        flat = torch.from_numpy(data)
    views = []
    for name, dtype_name, shape, offset in zip(
        header.names, header.dtypes, header.shapes, header.offsets, strict=True
    ):
        dtype = getattr(torch, dtype_name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        views.append((name, flat[offset : offset + size].view(dtype).view(shape)))
    return views


def buckets(named_tensors: Iterable[NamedTensor], limit_bytes: int) -> Iterator[list[NamedTensor]]:
    """Cut named tensors, in order, into lists of at most `limit_bytes` in all; see `cut`."""
    return cut(named_tensors, limit_bytes, lambda named: named[1].nbytes)


def cut(items: Iterable[T], limit_bytes: int, nbytes: Callable[[T], int]) -> Iterator[list[T]]:
    """Cut items, in order, into lists of at most `limit_bytes` in all.

    A larger item is alone in its list.
    """
    group: list[T] = []
    size = 0
    for item in items:
        more = nbytes(item)
        if group and size + more > limit_bytes:
            yield group
            group, size = [], 0
        group.append(item)
        size += more
    if group:
        yield group
