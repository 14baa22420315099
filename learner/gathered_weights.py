"""A trunk's weights as whole tensors, however ZeRO has cut them and adapters changed them.

Comes in: a trunk and a way to gather its parameters; goes out: buckets for the rollout engines
and for a model folder, and noise for their proof. It does not know DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from learner import distributed
from learner.lora import Adapters
from learner.model import KINDS, buckets, kind_of

GATHERED_BYTES = 2**28  # at once, for a folder
Bucket = list[tuple[str, torch.Tensor]]
Gather = Callable[[list[nn.Parameter], bool], AbstractContextManager[Any]]


class GatheredWeights:
    """What a trunk says, weight by weight.

    Args:
        trunk: a Hugging Face model, with or without adapters.
        gathered: makes a list of parameters whole inside its block; with True, changes made
            alike on all ranks stay.
        names: from the trunk's own name of a weight to the one that checkpoints and engines
            have for it.
    """

    def __init__(self, trunk: nn.Module, gathered: Gather, names: dict[str, str]) -> None:
        self._trunk, self._gathered, self._names = trunk, gathered, names
        self.adapters = Adapters(trunk)
        self._kept: list[tuple[nn.Parameter, torch.Tensor]] = []

    def shapes(self) -> list[tuple[str, torch.dtype, tuple[int, ...]]]:
        """Name, dtype and full shape of what `buckets` yields, in its order; not collective."""
        return [
            (self._names[n], p.dtype, tuple(getattr(p, "ds_shape", p.shape)))
            for n, p in self.adapters.plain_parameters()
        ]

    def buckets(self, limit: int, everywhere: bool = False) -> Iterator[Bucket]:
        """Named tensors, adapters merged, in lists of about `limit` bytes; a collective call.

        Tied weights come once. Valid until the next bucket is asked for; ranks other than 0
        get as many empty lists unless `everywhere`.
        """
        for bucket in self._merged(limit, everywhere):
            yield [(self._names[name], tensor) for name, tensor in bucket]

    def copies(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU by the trunk's own names, on rank 0; a collective call."""
        named = (item for bucket in self._merged(GATHERED_BYTES) for item in bucket)
        return {name: tensor.cpu().clone() for name, tensor in named}

    def _merged(self, limit: int, everywhere: bool = False) -> Iterator[Bucket]:
        merged = self.adapters.merged
        for bucket in buckets(self.adapters.plain_parameters(), limit):
            with self._gathered(self.adapters.beside(p for _, p in bucket), False):
                mine = bucket if everywhere or distributed.rank() == 0 else []
                yield [(n, merged(p)) for n, p in mine]

    def perturb(self, kind: str, seed: int) -> bool:
        """Add noise of a tenth of their size to the weights of one kind, until `restore`.

        Args:
            kind: one of learner.model.KINDS.
            seed: of the noise.

        Returns:
            False when the model has no weights of this kind (a tied head, say).
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {KINDS}")
        assert not self._kept, "perturb before restore"
        chosen = [p for n, p in self._trunk.named_parameters() if kind_of(n, self._trunk) == kind]
        generator = torch.Generator().manual_seed(seed)
        for parameter in chosen:
            with self._gathered([parameter], True), torch.no_grad():
                self._kept.append((parameter, parameter.detach().cpu().clone()))
                noise = torch.randn(parameter.shape, generator=generator)
                scale = 0.1 * parameter.float().square().mean().sqrt()
                parameter.add_(noise.to(parameter.device, parameter.dtype) * scale)
        return bool(chosen)

    def restore(self) -> None:
        """Put back exactly what `perturb` changed."""
        for parameter, original in self._kept:
            with self._gathered([parameter], True), torch.no_grad():
                parameter.copy_(original)
        self._kept = []
