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
from learner.checkpoint_layout import CheckpointLayout, CheckpointPart, WeightShape, shape_bytes
from learner.lora import Adapters
from learner.model import WEIGHT_KINDS, weight_kind
from rollout.bucket import NamedTensor, buckets, cut

STATE_DICT_BYTES = 2**28  # gathered at once for a state dict
NOISE = 0.1  # of a perturbed weight's root mean square

Bucket = list[NamedTensor]
WeightShapes = list[WeightShape]
Gather = Callable[[list[nn.Parameter], bool], AbstractContextManager[object]]


class GatheredWeights:
    """Full weights of a trunk, with its adapters merged.

    Args:
        trunk: a Hugging Face model, with or without adapters.
        gather: makes a context manager in which parameters are full tensors; with True, equal
            changes on all ranks are kept.
        layout: of the trunk's checkpoint, made before adapters were added.
    """

    def __init__(self, trunk: PreTrainedModel, gather: Gather, layout: CheckpointLayout) -> None:
        self._trunk, self._gather, self._layout = trunk, gather, layout
        self.adapters = Adapters(trunk)
        self._originals: list[tuple[nn.Parameter, torch.Tensor]] = []

    def shapes(self) -> WeightShapes:
        """Name, dtype and full shape of what `buckets` yields, in its order; not collective."""
        return self._layout.shapes()

    def buckets(self, limit_bytes: int, everywhere: bool = False) -> Iterator[Bucket]:
        """A checkpoint's tensors in buckets of at most `limit_bytes`; a collective call.

        Tied weights come once. A bucket is valid until the next one is requested; ranks other
        than 0 get as many empty buckets unless `everywhere`.
        """
        for parts, weights in self._merged(limit_bytes, everywhere):
            if weights is None:
                shapes = (shape for part in parts for shape in part.shapes)
                yield from ([] for _ in cut(shapes, limit_bytes, shape_bytes))
            else:
                tensors = (t for part in parts for t in self._layout.tensors(part, weights))
                yield from buckets(tensors, limit_bytes)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Copies on the CPU by the trunk's own names, on rank 0; a collective call."""
        state: dict[str, torch.Tensor] = {}
        for _, weights in self._merged(STATE_DICT_BYTES):
            state |= {name: tensor.cpu().clone() for name, tensor in (weights or {}).items()}
        return state

    def _merged(
        self, limit_bytes: int, everywhere: bool = False
    ) -> Iterator[tuple[list[CheckpointPart], dict[str, torch.Tensor] | None]]:
        """Parts of about `limit_bytes`, and their weights by the trunk's own names.

        None in the place of weights on ranks other than 0, unless `everywhere`.
        """
        plain = dict(self.adapters.plain_weights())
        for parts in cut(self._layout.parts, limit_bytes, lambda part: part.nbytes):
            weights = {name: plain[name] for part in parts for name in part.names}
            with self._gather(self.adapters.with_adapters(weights.values()), False):
                own = everywhere or distributed.rank() == 0
                if own:
                    yield parts, {n: self.adapters.merged(w) for n, w in weights.items()}
                else:
                    yield parts, None

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
