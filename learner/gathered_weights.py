"""The full weights of a trunk, gathered from ZeRO's partitions, with adapters merged.

Input: a trunk and a function that gathers parameters. Output: buckets for the rollout engines,
a state dict for a model folder. Weights-are-proven: perturbs one kind of weight for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import nn
from transformers import PreTrainedModel

from learner import distributed
from learner.lora import Adapters
from learner.model import WEIGHT_KINDS, weight_kind
from rollout.bucket import buckets

STATE_DICT_BYTES = 2**28  # gathered at once for a state dict
NOISE = 0.1  # of a perturbed weight's root mean square

Bucket = list[tuple[str, torch.Tensor]]
WeightShapes = list[tuple[str, torch.dtype, tuple[int, ...]]]  # name, dtype, full shape
Gather = Callable[[list[nn.Parameter], bool], AbstractContextManager[object]]


class GatheredWeights:
    """Full weights of a trunk, with its adapters merged.

    Args:
        trunk: a Hugging Face model, with or without adapters.
        gather: makes a context manager in which parameters are full tensors; with True, equal
            changes on all ranks are kept.
        names: from the trunk's own name of a weight to its name in checkpoints and engines.
    """

    def __init__(self, trunk: PreTrainedModel, gather: Gather, names: dict[str, str]) -> None:
        self._trunk, self._gather, self._names = trunk, gather, names
        self.adapters = Adapters(trunk)
        self._originals: list[tuple[nn.Parameter, torch.Tensor]] = []

    def shapes(self) -> WeightShapes:
        """Name, dtype and full shape of what `buckets` yields, in its order; not collective."""
        return [
            (self._names[name], p.dtype, tuple(getattr(p, "ds_shape", p.shape)))
            for name, p in self.adapters.plain_parameters()
        ]

    def buckets(self, limit_bytes: int, everywhere: bool = False) -> Iterator[Bucket]:
        """Named weights in buckets of at most `limit_bytes`; a collective call.

        Tied weights come once. A bucket is valid until the next one is requested; ranks other
        than 0 get as many empty buckets unless `everywhere`.
        """
        for bucket in self._merged(limit_bytes, everywhere):
            yield [(self._names[name], tensor) for name, tensor in bucket]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU by the trunk's own names, on rank 0; a collective call."""
        named = (item for bucket in self._merged(STATE_DICT_BYTES) for item in bucket)
        return {name: tensor.cpu().clone() for name, tensor in named}

    def _merged(self, limit_bytes: int, everywhere: bool = False) -> Iterator[Bucket]:
        """Buckets by the trunk's own names."""
        for bucket in buckets(self.adapters.plain_parameters(), limit_bytes):
            parameters = self.adapters.with_adapters(p for _, p in bucket)
            with self._gather(parameters, False):
                own = bucket if everywhere or distributed.rank() == 0 else []
                yield [(name, self.adapters.merged(p)) for name, p in own]

    def perturb(self, kind: str, seed: int) -> bool:
        """Add noise to the weights of one kind, until `restore`; a collective call.

        Args:
            kind: one of learner.model.WEIGHT_KINDS.
            seed: of the noise.

        Returns:
            False when the model has no weights of this kind (a tied head, say).
        """
        if kind not in WEIGHT_KINDS:
            raise ValueError(f"kind is {kind!r}; it must be one of {WEIGHT_KINDS}")
        assert not self._originals, "perturb before restore"
        chosen = [
            parameter
            for name, parameter in self._trunk.named_parameters()
            if weight_kind(name, self._trunk) == kind
        ]
        generator = torch.Generator().manual_seed(seed)
        for parameter in chosen:
            with self._gather([parameter], True), torch.no_grad():
                self._originals.append((parameter, parameter.detach().cpu().clone()))
                noise = torch.randn(parameter.shape, generator=generator)
                scale = NOISE * parameter.float().square().mean().sqrt()
                parameter.add_(noise.to(parameter.device, parameter.dtype) * scale)
        return bool(chosen)

    def restore(self) -> None:
        """Put back exactly what `perturb` changed."""
        for parameter, original in self._originals:
            with self._gather([parameter], True), torch.no_grad():
                parameter.copy_(original)
        self._originals = []
