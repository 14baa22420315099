"""LoRA adapters that travel alone, and are merged where plain weights are written for an engine.

Input: buckets of plain weights, which an actor keeps, and of adapters, which are small and new
with each publish. Output: buckets of merged weights, one at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rollout.bucket import AnyBucket, BucketHeader, NamedTensor, PackedBucket

A, B, SCALING = ".lora_A", ".lora_B", ".lora_scaling"  # after the name of the weight


class Adapter(NamedTuple):
    """One of a weight [out, in]: lora_A [r, in], lora_B [out, r], and scaling, alpha / r."""

    lora_A: torch.Tensor
    lora_B: torch.Tensor
    scaling: float

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.lora_A.nbytes + self.lora_B.nbytes

    def delta(self) -> torch.Tensor:
        """What it adds to the weight: scaling · B A, float32 [out, in] (Hu et al., 2021, eq. 3)."""
        return (self.lora_B.float() @ self.lora_A.float()) * self.scaling


class MergedBucket:
    """A bucket of plain weights whose parts are merged each time that they are requested."""

    def __init__(self, plain: PackedBucket, adapters: Mapping[str, Adapter]) -> None:
        self._plain, self._adapters = plain, adapters

    @property
    def header(self) -> BucketHeader:
        """That of the plain weights."""
        return self._plain.header

    @property
    def parts(self) -> list[NDArray[np.uint8]]:
        """uint8 [bytes] of each tensor; copies of those that have an adapter."""
        header = self.header
        described = zip(header.names, header.dtypes, header.shapes, self._plain.parts, strict=True)
        parts = []
        for name, dtype, shape, part in described:
            if name in self._adapters:
                part = part.copy()
                weight = torch.from_numpy(part).view(getattr(torch, dtype)).view(shape)
                weight += self._adapters[name].delta().to(weight.dtype)
            parts.append(part)
        return parts


def named_adapter(name: str, adapter: Adapter) -> list[NamedTensor]:
    """The tensors of the adapter of a weight, for a bucket."""
    scaling = torch.tensor(adapter.scaling, dtype=torch.float64)
    return [(name + A, adapter.lora_A), (name + B, adapter.lora_B), (name + SCALING, scaling)]


def holds_adapters(bucket: PackedBucket) -> bool:
    """Whether a bucket is one of adapters."""
    return any(name.endswith(SCALING) for name in bucket.header.names)


def with_adapters(buckets: Sequence[PackedBucket]) -> list[AnyBucket]:
    """The buckets of weights, with the adapters of the others merged.

    Raises:
        ValueError: there is no weight for an adapter.
    """
    tensors = {n: t for b in buckets if holds_adapters(b) for n, t in _copies(b)}
    names = [name.removesuffix(SCALING) for name in tensors if name.endswith(SCALING)]
    adapters = {
        name: Adapter(tensors[name + A], tensors[name + B], float(tensors[name + SCALING]))
        for name in names
    }
    plain = [bucket for bucket in buckets if not holds_adapters(bucket)]
    if unknown := set(names) - {name for bucket in plain for name in bucket.header.names}:
        raise ValueError(f"an adapter of {min(unknown)} came, and no such weight")
    if not adapters:
        return [*plain]
    return [MergedBucket(bucket, adapters) for bucket in plain]


def _copies(bucket: PackedBucket) -> Iterator[NamedTensor]:
    header = bucket.header
    for name, dtype, shape, part in zip(
        header.names, header.dtypes, header.shapes, bucket.parts, strict=True
    ):
        tensor = torch.from_numpy(part.copy())  # what Ray's object store holds is not writable
        yield name, tensor.view(getattr(torch, dtype)).view(shape)
